/* HOW FILE ADDRESS PORT LISTED: sends FILE to ADDRESS:PORT by datagrams through a socket that is connected to LISTED:PORT. `request` and
 * `vectors` by requests of io_uring (SEND and SENDMSG), `i386` by the sendto of i386. Static, so that 32 bits reach what the kernel is to
 * read. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[32000];
static struct sockaddr_in named, listed;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static long send_32(int to, long length)
{
    long result;
    __asm__ volatile("push %%rbp; xor %%ebp, %%ebp; mov $16, %%ebp; int $0x80; pop %%rbp"
                     : "=a"(result)
                     : "a"(369), "b"((long)to), "c"(buffer), "d"(length), "S"(0L), "D"(&named)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static char *queue;
static struct io_uring_sqe *requests;
static struct io_uring_params params;
static int ring;

static void make_ring(void)
{
    ring = syscall(SYS_io_uring_setup, 8, &params);
    if (ring < 0)
        fail("io_uring_setup");
    size_t room = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe) + 4096;
    queue = mmap(0, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    requests = mmap(0, params.sq_entries * sizeof *requests, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (queue == MAP_FAILED || requests == MAP_FAILED)
        fail("mmap");
}

static long request(int to, long length, int vectors)
{
    struct iovec vector = { buffer, length };
    struct msghdr message = { .msg_name = &named, .msg_namelen = sizeof named, .msg_iov = &vector, .msg_iovlen = 1 };
    unsigned *tail = (void *)(queue + params.sq_off.tail), *head = (void *)(queue + params.cq_off.head);
    unsigned slot = *tail & (params.sq_entries - 1);
    struct io_uring_sqe *one = requests + slot;
    memset(one, 0, sizeof *one);
    one->fd = to;
    one->opcode = vectors ? IORING_OP_SENDMSG : IORING_OP_SEND;
    one->addr = vectors ? (unsigned long)&message : (unsigned long)buffer;
    one->len = vectors ? 1 : length;
    if (!vectors) {
        one->addr2 = (unsigned long)&named;
        one->addr_len = sizeof named;
    }
    ((unsigned *)(queue + params.sq_off.array))[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) != 1)
        fail("io_uring_enter");
    struct io_uring_cqe *events = (void *)(queue + params.cq_off.cqes);
    return events[(*head)++ & (params.cq_entries - 1)].res;
}

int main(int count, char **words)
{
    if (count != 6)
        return 2;
    int from = open(words[2], O_RDONLY), to = socket(AF_INET, SOCK_DGRAM, 0);
    named.sin_family = listed.sin_family = AF_INET;
    named.sin_port = listed.sin_port = htons(atoi(words[4]));
    inet_aton(words[3], &named.sin_addr);
    inet_aton(words[5], &listed.sin_addr);
    if (from < 0 || connect(to, (struct sockaddr *)&listed, sizeof listed))
        fail("cannot begin");
    char how = words[1][0];
    if (how != 'i')
        make_ring();
    for (long length; (length = read(from, buffer, sizeof buffer)) > 0;) {
        long sent = how == 'i' ? send_32(to, length) : request(to, length, how == 'v');
        if (sent != length) {
            fprintf(stderr, "sent %ld\n", sent);
            return 1;
        }
    }
    return 0;
}
