/* SOURCE COPY OTHER: reads a little of OTHER; a child of its stores SOURCE into memory that both have, and this process writes that into
 * COPY by one call: requests of a ring of io_uring that was there before. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PART = 1 << 20, PARTS = 16 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    int ring = syscall(SYS_io_uring_setup, PARTS, &params);
    if (ring < 0)
        fail("io_uring_setup");
    char *queue = mmap(0, params.sq_off.array + 4 * params.sq_entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *requests =
        mmap(0, params.sq_entries * sizeof *requests, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    char *memory = mmap(0, (size_t)PARTS * PART, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int other = open(words[3], O_RDONLY), copy = open(words[2], O_WRONLY | O_CREAT, 0600);
    if (queue == MAP_FAILED || requests == MAP_FAILED || memory == MAP_FAILED || read(other, memory, 100) != 100 || copy < 0)
        fail("cannot begin");
    pid_t child = fork();
    if (child == 0) {
        int source = open(words[1], O_RDONLY);
        for (ssize_t length; (length = read(source, memory, PART)) > 0;)
            memory += length;
        _exit(0);
    }
    struct stat known;
    int status;
    if (waitpid(child, &status, 0) != child || status || stat(words[1], &known))
        fail("the child");
    unsigned *slots = (void *)(queue + params.sq_off.array), parts = 0;
    for (long at = 0; at < known.st_size; at += PART, parts++) {
        struct io_uring_sqe *one = requests + parts;
        memset(one, 0, sizeof *one);
        one->opcode = IORING_OP_WRITE;
        one->fd = copy;
        one->addr = (unsigned long)(memory + at);
        one->len = known.st_size - at < PART ? known.st_size - at : PART;
        one->off = at;
        slots[parts] = parts;
    }
    __atomic_store_n((unsigned *)(queue + params.sq_off.tail), parts, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, parts, parts, IORING_ENTER_GETEVENTS, 0, 0) != parts)
        fail("io_uring_enter");
    return 0;
}
