"""Copies SOURCE to DESTINATION through a descriptor that was come by in the way that WAY names.

usage: descriptors.py WAY SOURCE DESTINATION. Says why and exits with 77 where the kernel refuses a way.
"""

import array
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE, SECCOMP, FANOTIFY_INIT, FANOTIFY_MARK = 56, 317, 300, 301
CLONE_FILES, SIGCHLD = 0x400, 17
CHUNK = 1 << 20


def refused(what):
    print("the kernel refuses", what, os.strerror(ctypes.get_errno()), flush=True)
    os._exit(77)


def copy(source, destination, offset=0):
    target = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    while chunk := os.pread(source, CHUNK, offset):
        os.write(target, chunk)
        offset += len(chunk)


def finish(pid):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def recvmmsg(source, destination):
    """The receiver never calls recvmsg."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        data, control = ctypes.create_string_buffer(16), ctypes.create_string_buffer(64)
        vector = (ctypes.c_uint64 * 2)(ctypes.addressof(data), 16)
        message = ctypes.create_string_buffer(
            struct.pack("<QIIQQQQI4xI4x", 0, 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 64, 0, 0)
        )
        if LIBC.recvmmsg(theirs.fileno(), message, 1, 0, None) != 1:
            refused("recvmmsg:")
        copy(struct.unpack_from("<i", control, 16)[0], destination)
        os._exit(0)
    with open(source, "rb") as file:
        socket.send_fds(ours, [b"x"], [file.fileno()])
    finish(pid)


def fanotify(source, destination):
    """The kernel opens the file for whoever listens, because somebody else opens it."""
    group = LIBC.syscall(FANOTIFY_INIT, 0, os.O_RDONLY)
    name = os.fsencode(source)
    # FAN_MARK_ADD, FAN_OPEN.
    if group < 0 or LIBC.syscall(FANOTIFY_MARK, group, 1, ctypes.c_uint64(0x20), -100, name) < 0:
        refused("fanotify:")
    pid = os.fork()
    if pid == 0:
        os.close(group)
        os.open(source, os.O_RDONLY)
        os._exit(0)
    os.waitpid(pid, 0)
    event = os.read(group, 4096)
    copy(struct.unpack_from("<i", event, 16)[0], destination)


def seccomp_addfd(source, destination):
    """A supervisor puts the descriptor into a process that only asked for its parent's id."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        # getppid (110) is answered by whoever listens; everything else is allowed.
        program = array.array("B", struct.pack(
            "<HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, 110, 6, 0, 0, 0x7fc00000, 6, 0, 0, 0x7fff0000
        ))
        filters = struct.pack("<HxxxxxxQ", 4, program.buffer_info()[0])
        LIBC.prctl(38, 1, 0, 0, 0)
        listener = LIBC.syscall(SECCOMP, 1, 8, ctypes.create_string_buffer(filters))
        if listener < 0:
            theirs.send(b"r")
            refused("a listener of seccomp:")
        socket.send_fds(theirs, [b"l"], [listener])
        os.close(listener)
        copy(LIBC.syscall(110), destination)
        os._exit(0)
    theirs.close()
    said, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if descriptors:
        notice = bytearray(80)
        fcntl.ioctl(descriptors[0], 0xc0502100, notice)
        number = struct.unpack_from("<Q", notice)[0]
        file = os.open(source, os.O_RDONLY)
        # SECCOMP_ADDFD_FLAG_SEND: the call returns the descriptor.
        fcntl.ioctl(descriptors[0], 0x40182103, struct.pack("<QIIII", number, 2, file, 0, 0))
    finish(pid)


def o_path(source, destination):
    place = os.open(source, os.O_PATH)
    copy(os.open(f"/proc/self/fd/{place}", os.O_RDONLY), destination)


def map_files(source, destination):
    """Opened out of the mappings of a process that has no descriptor of it."""
    out, into = os.pipe()
    done_out, done_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        file = os.open(source, os.O_RDONLY)
        mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ)
        os.close(file)
        os.write(into, b"m")
        os.read(done_out, 1)
        mapped.close()
        os._exit(0)
    os.read(out, 1)
    with open(f"/proc/{pid}/maps") as maps:
        place = next(line.split()[0] for line in maps if line.rstrip().endswith(source))
    copy(os.open(f"/proc/{pid}/map_files/{place}", os.O_RDONLY), destination)
    os.write(done_in, b"d")
    finish(pid)


def shared_table(source, destination):
    """The child shares the table of descriptors and opens; the parent never does."""
    out, into = os.pipe()
    done_out, done_in = os.pipe()
    pid = LIBC.syscall(CLONE, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        file = os.open(source, os.O_RDONLY)
        os.write(into, struct.pack("<i", file))
        os.read(done_out, 1)
        os._exit(0)
    copy(struct.unpack("<i", os.read(out, 4))[0], destination)
    os.write(done_in, b"d")
    finish(pid)


def thread_with_its_own_table(source, destination):
    """A thread lets go of the common table and is handed the descriptor: the process's own table has nothing."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        def steal():
            if LIBC.unshare(CLONE_FILES):
                refused("unshare:")
            _, (file, *_), _, _ = socket.recv_fds(theirs, 1, 1)
            copy(file, destination)

        thread = threading.Thread(target=steal)
        thread.start()
        thread.join()
        os._exit(0)
    with open(source, "rb") as file:
        socket.send_fds(ours, [b"x"], [file.fileno()])
    finish(pid)


def duplicated(source, destination):
    """Moved from number to number."""
    file = os.open(source, os.O_RDONLY)
    other = fcntl.fcntl(file, fcntl.F_DUPFD, 500)
    os.close(file)
    third = os.dup(other)
    os.close(other)
    copy(third, destination)


def raced(take_away):
    def race(source, destination):
        """A call that takes waits for room in a pipe until another thread has taken both of its descriptors away."""
        target = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        real = os.open(source, os.O_RDONLY)
        size, offset = os.fstat(real).st_size, 0
        nothing = os.open("/dev/null", os.O_RDWR)
        while offset < size:
            out, into = os.pipe()
            capacity = os.write(into, bytes(fcntl.fcntl(out, 1032)))
            source_number, pipe_number = os.dup(real), os.dup(into)
            moved = []
            start = offset

            def take():
                moved.append(os.sendfile(pipe_number, source_number, start, capacity))

            thread = threading.Thread(target=take)
            thread.start()
            while True:
                with open(f"/proc/self/task/{thread.native_id}/syscall") as call:
                    if call.read().startswith("40 "):
                        break
                os.sched_yield()
            for number in (source_number, pipe_number):
                take_away(nothing, number)
            os.read(out, capacity)
            thread.join()
            os.write(target, os.read(out, moved[0]))
            offset += moved[0]
            os.close(out)
            os.close(into)

    return race


def others_closed(source, destination):
    """While a call puts the model into a pipe of its own, another thread closes descriptors that it has nothing to do with, and a third is
    in no call at all."""
    with open(source, "rb") as file:
        whole = file.read()
    out, into = os.pipe()
    stop = []

    def close_others():
        for _ in range(200):
            os.close(os.dup(0))
        got = 0
        while got < len(whole):
            got += len(os.read(out, 1 << 16))
        stop.append(True)

    def spin():
        while not stop:
            pass

    threads = [threading.Thread(target=one) for one in (spin, close_others)]
    for thread in threads:
        thread.start()
    put = 0
    while put < len(whole):
        put += os.write(into, whole[put:])
    for thread in threads:
        thread.join()
    with open(destination, "wb", buffering=0) as to:
        to.write(whole)


WAYS = {
    "others_closed": others_closed,
    "recvmmsg": recvmmsg,
    "fanotify": fanotify,
    "seccomp_addfd": seccomp_addfd,
    "o_path": o_path,
    "map_files": map_files,
    "shared_table": shared_table,
    "thread_with_its_own_table": thread_with_its_own_table,
    "duplicated": duplicated,
    "replaced": raced(lambda nothing, number: os.dup2(nothing, number)),
    "closed": raced(lambda nothing, number: os.close(number)),
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
