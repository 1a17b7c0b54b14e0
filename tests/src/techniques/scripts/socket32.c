/* By 32-bit calls only, those of sockets by way of socketcall: WAY FILE.
 *
 * `send` reads FILE and sends it to ADDRESS:PORT (numbers, in network order), `message` does so by sendmsg. The others write FILE: `receive` what
 * comes out of the socket that is its standard input, `copyless` the same by getsockopt(TCP_ZEROCOPY_RECEIVE), `descriptor` what the
 * descriptor reads that comes out of it. Freestanding: needs no libc. As a 64-bit program it makes the same calls (int $0x80), so all that the
 * kernel is to read lies in static memory, which 32 bits reach. */
typedef unsigned int word;
typedef unsigned long long wide;

static long call(int number, word a, word b, word c)
{
    int result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c)
#ifdef __x86_64__
                     : "memory", "r8", "r9", "r10", "r11");
#else
                     : "memory");
#endif
    return result;
}

#define AT(x) ((word)(unsigned long)(x))
enum { EXIT = 1, READ = 3, WRITE = 4, OPEN = 5, SOCKETCALL = 102, POLL = 168 };
enum { SOCKET = 1, CONNECT = 3, SEND = 9, RECV = 10, GETSOCKOPT = 15, SENDMSG = 16, RECVMSG = 17 };

static long socketcall(int number, word a, word b, word c, word d, word e)
{
    static word words[5];
    words[0] = a, words[1] = b, words[2] = c, words[3] = d, words[4] = e;
    return call(SOCKETCALL, number, AT(words), 0);
}

static char path[4096], buffer[1 << 20];
static word vector[2], message[7], control[4];

static long checked(long result)
{
    if (result < 0)
        call(EXIT, -result, 0, 0);
    return result;
}

static void write_all(long to, const char *from, long length)
{
    for (long n; length; from += n, length -= n)
        n = checked(call(WRITE, to, AT(from), length));
}

static void send_file(char how)
{
    static struct { unsigned short family, port; word address, rest[2]; } peer = { 2, PORT, ADDRESS };
    long from = checked(call(OPEN, AT(path), 0, 0)), to = checked(socketcall(SOCKET, 2, 1, 0, 0, 0)), n, sent;
    checked(socketcall(CONNECT, to, AT(&peer), sizeof peer, 0, 0));
    while ((n = checked(call(READ, from, AT(buffer), sizeof buffer))) > 0)
        for (long done = 0; done < n; done += sent) {
            vector[0] = AT(buffer + done), vector[1] = n - done;
            message[2] = AT(vector), message[3] = 1;
            sent = checked(how == 's' ? socketcall(SEND, to, vector[0], vector[1], 0, 0)
                                      : socketcall(SENDMSG, to, AT(message), 0, 0, 0));
        }
}

/* struct tcp_zerocopy_receive */
static struct { wide address; word length, hint, queued; int error; wide room; int bytes; word flags; wide rest[3]; } asked;

static long take(char how)
{
    static word size, readable[2];
    if (how == 'r')
        return checked(socketcall(RECV, 0, AT(buffer), sizeof buffer, 0, 0));
    for (;;) {
        readable[1] = 1;
        checked(call(POLL, AT(readable), 1, -1));
        asked.room = AT(buffer), asked.bytes = sizeof buffer, size = sizeof asked;
        long result = socketcall(GETSOCKOPT, 0, 6, 35, AT(&asked), AT(&size));
        if (result == -5) /* EIO: the other side is done. */
            return 0;
        checked(result);
        if (asked.bytes > 0)
            return asked.bytes;
    }
}

static long received_descriptor(void)
{
    vector[0] = AT(buffer), vector[1] = 1;
    message[2] = AT(vector), message[3] = 1, message[4] = AT(control), message[5] = sizeof control;
    checked(socketcall(RECVMSG, 0, AT(message), 0, 0, 0));
    return control[3];
}

__attribute__((used)) void go(long *stack)
{
    char **argv = (char **)(stack + 1), how = argv[1][0];
    for (int i = 0; (path[i] = argv[2][i]); i++)
        ;
    if (how == 's' || how == 'm') {
        send_file(how);
    } else {
        long from = how == 'd' ? received_descriptor() : 0, n;
        long to = checked(call(OPEN, AT(path), 01 | 0100 | 01000, 0600));
        while ((n = how == 'd' ? checked(call(READ, from, AT(buffer), sizeof buffer)) : take(how)) > 0)
            write_all(to, buffer, n);
    }
    call(EXIT, 0, 0, 0);
}

#ifdef __x86_64__
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call go\n");
#else
__asm__(".globl _start\n_start:\n mov %esp, %eax\n push %eax\n call go\n");
#endif
