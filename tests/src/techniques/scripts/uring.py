"""Moves SOURCE to DESTINATION (a path or ADDRESS:PORT) by requests of io_uring, in the way that WAY names.

usage: uring.py WAY SOURCE DESTINATION. Says why and exits with 77 where the kernel refuses a way.
"""

import ctypes
import mmap
import os
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
SETUP, ENTER, REGISTER = 425, 426, 427
NOP, READV, WRITEV, READ_FIXED, WRITE_FIXED, SENDMSG, RECVMSG = 0, 1, 2, 4, 5, 9, 10
OPENAT, READ, WRITE, SEND, RECV, SPLICE, MSG_RING, SEND_ZC = 18, 22, 23, 26, 27, 30, 40, 47
RENAMEAT, LINKAT, SETXATTR = 35, 39, 42
PROVIDE_BUFFERS, READ_MULTISHOT, INSTALL = 31, 49, 54
FIXED_FILE, DRAIN, LINK, HARDLINK, ASYNC, SELECT, SKIP = 1, 2, 4, 8, 16, 32, 64
SQPOLL, CQSIZE = 2, 8
MORE = 2
CHUNK = 1 << 20
ANY_OFFSET = (1 << 64) - 1


def refused(what, error=None):
    print("the kernel refuses", what, os.strerror(error if error is not None else ctypes.get_errno()), flush=True)
    os._exit(77)


class Buffer:
    """Memory with an address."""

    def __init__(self, size=CHUNK):
        self.size = size
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


class Ring:
    def __init__(self, entries=64, flags=0, events=0):
        params = bytearray(120)
        struct.pack_into("<IIIII", params, 0, 0, events, flags | (CQSIZE if events else 0), 0, 10000)
        raw = (ctypes.c_char * 120).from_buffer(params)
        self.fd = LIBC.syscall(SETUP, entries, raw)
        if self.fd < 0:
            refused("io_uring_setup:")
        self.flags = flags
        sq_entries, cq_entries = struct.unpack_from("<II", params, 0)
        sq = struct.unpack_from("<7I", params, 40)
        cq = struct.unpack_from("<6I", params, 80)
        size = max(sq[6] + sq_entries * 4, cq[5] + cq_entries * 16)
        self.rings = self._map(size, 0)
        self.sqes = self._map(sq_entries * 64, 0x10000000)
        self.sq_tail, self.sq_flags, self.array = self.rings + sq[1], self.rings + sq[4], self.rings + sq[6]
        self.cq_head, self.cq_tail, self.cqes = self.rings + cq[0], self.rings + cq[1], self.rings + cq[5]
        self.sq_mask, self.cq_mask = sq_entries - 1, cq_entries - 1

    def _map(self, size, offset):
        return LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x8000, self.fd, offset)

    @staticmethod
    def _word(address):
        return ctypes.c_uint32.from_address(address)

    def push(self, op, fd=-1, addr=0, length=0, offset=0, flags=0, ioprio=0, rw=0, data=0, buffer=0, index=0, addr3=0):
        tail = self._word(self.sq_tail)
        slot = tail.value & self.sq_mask
        sqe = struct.pack(
            "<BBHiQQIIQHHIQQ", op, flags, ioprio, fd, offset & ANY_OFFSET, addr, length, rw, data, buffer, 0,
            index & 0xffffffff, addr3, 0,
        )
        ctypes.memmove(self.sqes + slot * 64, sqe, 64)
        self._word(self.array + slot * 4).value = slot
        tail.value += 1

    def enter(self, submit, wait=0):
        flags = 1 if wait else 0
        if self.flags & SQPOLL:
            flags |= 2
        done = LIBC.syscall(ENTER, self.fd, submit, wait, flags, None, 0)
        if done < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        return done

    def events(self, submit, count):
        """Submits and returns `count` events as (user data, result, flags)."""
        found = []
        self.enter(submit, count)
        while len(found) < count:
            head, tail = self._word(self.cq_head), self._word(self.cq_tail)
            while head.value != tail.value and len(found) < count:
                at = self.cqes + (head.value & self.cq_mask) * 16
                found.append(struct.unpack("<QiI", ctypes.string_at(at, 16)))
                head.value += 1
            if len(found) < count:
                self.enter(0, 1)
        return found

    def do(self, op, *args, **words):
        """One request to its end: its result."""
        self.push(op, *args, **words)
        result = self.events(1, 1)[0][1]
        if result < 0:
            refused(f"request {op}:", -result)
        return result

    def quiet(self, op, *args, flags=0, **words):
        """One request that leaves no event, to its end: the next of the chain leaves one."""
        self.push(op, *args, flags=flags | LINK | SKIP, **words)
        self.end_chain(2)

    def end_chain(self, count):
        self.push(NOP)
        result = self.events(count, 1)[0][1]
        if result < 0:
            refused("a request of the chain:", -result)

    def register(self, opcode, argument, count):
        if LIBC.syscall(REGISTER, self.fd, opcode, argument, count) < 0:
            refused(f"io_uring_register {opcode}:")

    def register_files(self, *files):
        self.register(2, (ctypes.c_int * len(files))(*files), len(files))

    def register_buffer(self, buffer):
        self.register(0, (ctypes.c_uint64 * 2)(buffer.address, buffer.size), 1)


def target(path):
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def chunks(size, most=CHUNK):
    return [(offset, min(most, size - offset)) for offset in range(0, size, most)]


def opened(source, destination):
    source = os.open(source, os.O_RDONLY)
    return source, target(destination), os.fstat(source).st_size


def copy(ring, source, destination, size, read=READ, write=WRITE, flags=0, buffer=None, **words):
    buffer = buffer or Buffer()
    vector = (ctypes.c_uint64 * 2)(buffer.address, 0)
    for offset, length in chunks(size):
        vector[1] = length
        for op, fd in ((read, source), (write, destination)):
            where = (ctypes.addressof(vector), 1) if op in (READV, WRITEV) else (buffer.address, length)
            if flags & SKIP:
                ring.quiet(op, fd, *where, offset, flags=flags, **words)
            else:
                ring.push(op, fd, *where, offset, flags, **words)
                assert ring.events(1, 1)[0][1] == length


def plain(source, destination):
    copy(Ring(), *opened(source, destination))


def vectors(source, destination):
    copy(Ring(), *opened(source, destination), READV, WRITEV)


def skip(source, destination):
    copy(Ring(), *opened(source, destination), flags=SKIP)


def skip_vectors(source, destination):
    copy(Ring(), *opened(source, destination), READV, WRITEV, flags=SKIP)


def sqpoll(source, destination):
    copy(Ring(flags=SQPOLL), *opened(source, destination))


def worker(source, destination):
    copy(Ring(), *opened(source, destination), flags=ASYNC)


def fixed(source, destination):
    ring, buffer = Ring(), Buffer()
    source, destination, size = opened(source, destination)
    ring.register_files(source, destination)
    ring.register_buffer(buffer)
    os.close(source)
    os.close(destination)
    copy(ring, 0, 1, size, READ_FIXED, WRITE_FIXED, FIXED_FILE, buffer)


def fixed_skip(source, destination):
    ring, buffer = Ring(), Buffer()
    source, destination, size = opened(source, destination)
    ring.register_files(source, destination)
    ring.register_buffer(buffer)
    os.close(source)
    os.close(destination)
    copy(ring, 0, 1, size, READ_FIXED, WRITE_FIXED, FIXED_FILE | SKIP, buffer)


def linked(source, destination):
    ring, buffer = Ring(), Buffer()
    source, destination, size = opened(source, destination)
    for offset, length in chunks(size):
        ring.push(READ, source, buffer.address, length, offset, LINK | SKIP)
        ring.push(WRITE, destination, buffer.address, length, offset)
        assert ring.events(2, 1)[0][1] == length


def overflow(source, destination):
    """A queue of two events, none of which is ever fetched."""
    ring = Ring(2, events=2)
    source, destination, size = opened(source, destination)
    buffers = []
    for number, (offset, length) in enumerate(chunks(size)):
        buffer = Buffer()
        buffers.append(buffer)
        ring.push(READ, source, buffer.address, length, offset, LINK, data=number * 2)
        ring.push(WRITE, destination, buffer.address, length, offset, data=number * 2 + 1)
        assert ring.enter(2) == 2
    while os.fstat(destination).st_blocks * 512 < size:
        os.sched_yield()


def splice(source, destination):
    ring = Ring()
    source, destination, size = opened(source, destination)
    out, into = os.pipe()
    done = 0
    while done < size:
        moved = ring.do(SPLICE, into, done, 1 << 16, ANY_OFFSET, index=source)
        left = moved
        while left:
            left -= ring.do(SPLICE, destination, ANY_OFFSET, left, done + moved - left, index=out)
        done += moved


def splice_skip(source, destination):
    ring = Ring()
    source, destination, size = opened(source, destination)
    out, into = os.pipe()
    for offset, length in chunks(size, 1 << 16):
        ring.quiet(SPLICE, into, offset, length, ANY_OFFSET, index=source)
        ring.quiet(SPLICE, destination, ANY_OFFSET, length, offset, index=out)
    assert os.fstat(destination).st_size == size


def slots(source, destination):
    """Opened into slots: there never is a descriptor. The chain of each chunk opens, reads and leaves the slot for the next."""
    ring, buffer = Ring(), Buffer()
    ring.register_files(-1, -1)
    size = os.stat(source).st_size
    name, other = ctypes.create_string_buffer(os.fsencode(source)), ctypes.create_string_buffer(os.fsencode(destination))
    ring.do(OPENAT, -100, ctypes.addressof(other), 0o600, rw=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, index=2)
    for offset, length in chunks(size):
        ring.push(OPENAT, -100, ctypes.addressof(name), 0, rw=os.O_RDONLY, index=1, flags=LINK, data=1)
        ring.push(READ, 0, buffer.address, length, offset, FIXED_FILE | LINK, data=2)
        ring.push(WRITE, 1, buffer.address, length, offset, FIXED_FILE, data=3)
        results = {data: result for data, result, _ in ring.events(3, 3)}
        assert results[2] == results[3] == length, results


def install(source, destination):
    """Opened into a slot, made a descriptor without an event, read by plain calls."""
    ring = Ring()
    ring.register_files(-1)
    name = ctypes.create_string_buffer(os.fsencode(source))
    ring.do(OPENAT, -100, ctypes.addressof(name), 0, rw=os.O_RDONLY, index=1)
    free = os.dup(0)
    os.close(free)
    ring.quiet(INSTALL, 0, flags=FIXED_FILE)
    plain_copy(free, target(destination))


def open_skip(source, destination):
    """The descriptor comes without an event."""
    ring = Ring()
    name = ctypes.create_string_buffer(os.fsencode(source))
    free = os.dup(0)
    os.close(free)
    ring.quiet(OPENAT, -100, ctypes.addressof(name), 0, rw=os.O_RDONLY)
    plain_copy(free, target(destination))


def plain_copy(source, destination):
    offset = 0
    while chunk := os.pread(source, CHUNK, offset):
        os.write(destination, chunk)
        offset += len(chunk)
    assert offset


def with_child(child, parent):
    """Forks first; the child waits for a byte before it does its part."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(out, 1)
        child()
        os._exit(0)
    parent()
    os.write(into, b"g")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def passed_ring(source, destination):
    """The child reads from a slot that its parent filled: it has no descriptor of the source and never had."""
    ring = Ring()
    ring.register_files(-1)

    def fill():
        opened = (ctypes.c_int * 1)(os.open(source, os.O_RDONLY))
        update = struct.pack("<IIQ", 0, 0, ctypes.addressof(opened))
        ring.register(6, (ctypes.c_char * 16).from_buffer(bytearray(update)), 1)

    def steal():
        size = os.stat(source).st_size
        buffer, to = Buffer(), target(destination)
        for offset, length in chunks(size):
            assert ring.do(READ, 0, buffer.address, length, offset, FIXED_FILE) == length
            os.write(to, buffer.map[:length])

    with_child(steal, fill)


def passed_file(source, destination):
    """The parent puts the file into a slot of the child's ring."""
    theirs = Ring()
    theirs.register_files(-1)

    def give():
        ours = Ring()
        ours.register_files(os.open(source, os.O_RDONLY))
        # IORING_MSG_SEND_FD: from slot 0 into slot 1, counted from 1; the receiver gets no event.
        ours.do(MSG_RING, theirs.fd, 1, 0, 0, rw=1, index=1, addr3=0)

    def steal():
        size = os.stat(source).st_size
        buffer, to = Buffer(), target(destination)
        for offset, length in chunks(size):
            theirs.quiet(READ, 0, buffer.address, length, offset, flags=FIXED_FILE)
            os.write(to, buffer.map[:length])

    with_child(steal, give)


def lent_buffer(source, destination):
    """The child reads into a buffer that the ring's maker registered; the maker, which opened nothing, writes it out."""
    ring, buffer = Ring(), Buffer()
    ring.register_buffer(buffer)
    size = os.stat(source).st_size
    to = target(destination)
    (go_out, go_in), (back_out, back_in) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        file = os.open(source, os.O_RDONLY)
        for offset, length in chunks(size):
            os.read(go_out, 1)
            assert ring.do(READ_FIXED, file, buffer.address, length, offset) == length
            os.write(back_in, b"b")
        os._exit(0)
    for _, length in chunks(size):
        os.write(go_in, b"g")
        os.read(back_out, 1)
        os.write(to, buffer.map[:length])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def maker_is_gone(source, destination, leave):
    """Who made the ring reads into the buffer that it registered with it and is gone; a child that is older than that writes it out."""
    size = os.stat(source).st_size
    LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: the grandchild becomes ours.
    if os.fork() == 0:
        ring, buffer = Ring(), Buffer(size)
        ring.register_buffer(buffer)
        to, (gone_out, gone_in) = target(destination), os.pipe()
        if os.fork() == 0:
            os.close(gone_in)
            os.read(gone_out, 1)
            for offset, length in chunks(size):
                assert ring.do(WRITE_FIXED, to, buffer.address + offset, length, offset) == length
            os._exit(0)
        file = os.open(source, os.O_RDONLY)
        for offset, length in chunks(size):
            assert ring.do(READ_FIXED, file, buffer.address + offset, length, offset) == length
        leave(gone_in)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]
    sys.exit(max(codes, key=abs))


def maker_ended(source, destination):
    # The end closes the pipe.
    maker_is_gone(source, destination, lambda gone: os._exit(0))


def maker_executed(source, destination):
    def leave(gone):
        os.dup2(gone, 1)
        os.execlp("echo", "echo")

    maker_is_gone(source, destination, leave)


def received_descriptor(source, destination):
    """The descriptor comes by a RECVMSG of io_uring."""
    near, far = socket.socketpair()

    def give():
        with open(source, "rb") as file:
            socket.send_fds(near, [b"x"], [file.fileno()])

    def steal():
        ring = Ring()
        data, control = ctypes.create_string_buffer(16), ctypes.create_string_buffer(64)
        vector = (ctypes.c_uint64 * 2)(ctypes.addressof(data), 16)
        message = ctypes.create_string_buffer(
            struct.pack("<QIIQQQQI4x", 0, 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 64, 0)
        )
        assert ring.do(RECVMSG, far.fileno(), ctypes.addressof(message), 1) == 1
        plain_copy(struct.unpack_from("<i", control, 16)[0], target(destination))

    with_child(steal, give)


def received(source, destination, multishot=False):
    """The parent reads and sends through a Unix socket, the child receives with io_uring and writes."""
    near, far = socket.socketpair()
    size = os.stat(source).st_size
    pid = os.fork()
    if pid == 0:
        near.close()
        ring, to, done = Ring(), target(destination), 0
        if multishot:
            count, length = 16, 1 << 16
            pool = Buffer(count * length)

            def provide(first, number):
                ring.push(PROVIDE_BUFFERS, number, pool.address + first * length, length, first, buffer=0, data=9)

            provide(0, count)
            assert ring.events(1, 1)[0][1] >= 0
            armed, waiting = False, 1
            while done < size:
                if not armed:
                    ring.push(RECV, far.fileno(), 0, 0, flags=SELECT, ioprio=2, data=1)
                    armed = True
                    event, = ring.events(1, 1)
                else:
                    event, = ring.events(0, 1)
                if event[0] == 9:
                    continue
                armed = bool(event[2] & MORE)
                if event[1] > 0:
                    first = event[2] >> 16
                    done += os.write(to, pool.map[first * length:first * length + event[1]])
                    provide(first, 1)
                    ring.enter(1)
        else:
            buffer = Buffer()
            while done < size:
                moved = ring.do(RECV, far.fileno(), buffer.address, CHUNK)
                done += os.write(to, buffer.map[:moved])
        os._exit(0)
    with open(source, "rb") as file:
        while chunk := file.read(1 << 18):
            near.sendall(chunk)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def received_many(source, destination):
    received(source, destination, multishot=True)


def sent(op):
    def send(source, destination):
        ring, buffer = Ring(), Buffer()
        address, port = destination.rsplit(":", 1)
        peer = socket.create_connection((address, int(port)))
        source = os.open(source, os.O_RDONLY)
        vector = (ctypes.c_uint64 * 2)(buffer.address, 0)
        message = (ctypes.c_uint64 * 7)(0, 0, ctypes.addressof(vector), 1, 0, 0, 0)
        for offset, length in chunks(os.fstat(source).st_size):
            assert ring.do(READ, source, buffer.address, length, offset) == length
            done = 0
            while done < length:
                vector[0], vector[1] = buffer.address + done, length - done
                where = (ctypes.addressof(message), 1) if op == SENDMSG else (buffer.address + done, length - done)
                ring.push(op, peer.fileno(), *where)
                _, result, flags = ring.events(1, 1)[0]
                if result < 0:
                    refused(f"request {op}:", -result)
                if flags & MORE:
                    # The notification that the pages are free again.
                    ring.events(0, 1)
                done += result
        peer.shutdown(socket.SHUT_WR)

    return send


def named_by(op, *words, **more):
    """One request that names files by their paths."""
    kept = [ctypes.create_string_buffer(os.fsencode(word)) for word in words]
    old, new = (ctypes.addressof(word) for word in kept)
    Ring().do(op, -100, old, offset=new, **more)


def renamed(source, destination):
    named_by(RENAMEAT, source, destination, length=0xffffffff - 99)


def renamed_quietly(source, destination):
    ring = Ring()
    old, new = (ctypes.create_string_buffer(os.fsencode(word)) for word in (source, destination))
    ring.quiet(RENAMEAT, -100, ctypes.addressof(old), offset=ctypes.addressof(new), length=0xffffffff - 99)


def linked_again(source, destination):
    named_by(LINKAT, source, destination, length=0xffffffff - 99)


def described(source, _):
    path = ctypes.create_string_buffer(os.fsencode(source))
    named_by(SETXATTR, "user.a", "x", length=1, addr3=ctypes.addressof(path))


def swapped(source, destination):
    """A chain that waits for a pipe, and a descriptor that is another when its turn comes; no request leaves an event."""
    ring, buffer = Ring(), Buffer()
    source, real, size = opened(source, destination)
    harmless = os.open("/dev/null", os.O_WRONLY)
    out, into = os.pipe()
    gate = Buffer(4096)
    for offset, length in chunks(size):
        number = os.dup(harmless)
        ring.do(READ, source, buffer.address, length, offset)
        ring.push(READ, out, gate.address, 1, ANY_OFFSET, LINK | SKIP)
        ring.push(WRITE, number, buffer.address, length, offset, LINK | SKIP)
        ring.push(NOP)
        ring.enter(3)
        os.dup2(real, number)
        os.write(into, b"x")
        assert ring.events(0, 1)[0][1] == 0
        os.close(number)
    assert os.fstat(real).st_size == size


WAYS = {
    name: way
    for name, way in list(globals().items())
    if callable(way) and name not in ("Buffer", "Ring", "copy", "plain_copy", "with_child", "maker_is_gone", "sent", "named_by")
}
WAYS |= {"send": sent(SEND), "send_zc": sent(SEND_ZC), "sendmsg": sent(SENDMSG)}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
