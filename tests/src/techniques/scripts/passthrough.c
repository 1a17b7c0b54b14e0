/* FILE PLACE: serves a filesystem at PLACE with one file, `w`, of which the kernel reads FILE by itself (FUSE passthrough): this process is
 * never asked for a byte. Ends when it is unmounted. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of Linux 6.9, which the headers of the system can be older than. */
struct backing { int32_t descriptor; uint32_t flags; uint64_t padding; };
#define OPEN_BACKING _IOW(229, 1, struct backing)
#define PASSTHROUGH_2 (1u << 5)
#define EXTENDED (1u << 30)
#define OPEN_PASSTHROUGH (1u << 7)

static int device;
static char request[1 << 17];

static void answer(uint64_t to, int error, const void *body, size_t length)
{
    static char reply[4096];
    struct fuse_out_header *head = (void *)reply;
    if (error)
        length = 0;
    head->len = sizeof *head + length, head->error = -error, head->unique = to;
    memcpy(reply + sizeof *head, body, length);
    if (write(device, reply, head->len) < 0)
        perror("answer");
}

int main(int count, char **words)
{
    struct stat known;
    char options[100];
    int file = open(words[1], O_RDONLY);
    if (count != 3 || file < 0 || fstat(file, &known) || (device = open("/dev/fuse", O_RDWR)) < 0)
        return 2;
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    if (mount("passthrough", words[2], "fuse", 0, options)) {
        perror("mount");
        return 1;
    }
    for (;;) {
        if (read(device, request, sizeof request) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            return 0;
        }
        struct fuse_in_header *head = (void *)request;
        const char *body = request + sizeof *head;
        int is_root = head->nodeid == 1;
        struct fuse_attr_out attributes = { .attr_valid = 100 };
        attributes.attr.ino = head->nodeid, attributes.attr.nlink = 1;
        attributes.attr.mode = is_root ? S_IFDIR | 0755 : S_IFREG | 0644;
        attributes.attr.size = is_root ? 0 : known.st_size;
        switch (head->opcode) {
        case FUSE_INIT: {
            /* Words: major, minor, readahead, flags, two counts, write, granularity, pages, flags2, depth of the stack. */
            uint32_t words[16] = { 7, 40, 1 << 17, EXTENDED, 0, 1 << 16, 1, 0, PASSTHROUGH_2, 1 };
            answer(head->unique, 0, words, sizeof words);
            break;
        }
        case FUSE_GETATTR:
            answer(head->unique, 0, &attributes, sizeof attributes);
            break;
        case FUSE_LOOKUP: {
            struct fuse_entry_out entry = { .nodeid = 2, .entry_valid = 100, .attr_valid = 100 };
            entry.attr = attributes.attr;
            entry.attr.ino = 2, entry.attr.mode = S_IFREG | 0644, entry.attr.size = known.st_size;
            answer(head->unique, strcmp(body, "w") ? ENOENT : 0, &entry, sizeof entry);
            break;
        }
        case FUSE_OPEN: {
            struct backing backing = { .descriptor = file };
            int id = ioctl(device, OPEN_BACKING, &backing);
            /* Words: a handle of two, flags, the number of the file behind it. */
            uint32_t opened[4] = { 1, 0, OPEN_PASSTHROUGH, id };
            if (id <= 0)
                perror("passthrough");
            answer(head->unique, id <= 0 ? EIO : 0, opened, sizeof opened);
            break;
        }
        case FUSE_RELEASE:
        case FUSE_FLUSH:
            answer(head->unique, 0, "", 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        case FUSE_DESTROY:
            return 0;
        default:
            /* A read too: it would be one that the kernel does not answer itself. */
            answer(head->unique, ENOSYS, "", 0);
        }
    }
}
