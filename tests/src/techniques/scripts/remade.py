"""Copies SOURCE to DESTINATION while something becomes another under the same name, or through what is no channel by itself.

usage: remade.py WAY SOURCE DESTINATION. Says why and exits with 77 where the kernel refuses a way.
"""

import ctypes
import errno
import mmap
import os
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
WINDOW = 1 << 16
TARGET = os.O_RDWR | os.O_CREAT | os.O_TRUNC


def refused(what):
    print("the kernel refuses", what, os.strerror(ctypes.get_errno()), flush=True)
    os._exit(77)


def window(descriptor, protection):
    address = LIBC.mmap(None, WINDOW, protection, mmap.MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        refused("mmap:")
    return address


def slide(address, page):
    if LIBC.remap_file_pages(ctypes.c_void_p(address), ctypes.c_size_t(WINDOW), 0, ctypes.c_size_t(page), 0) != 0:
        refused("remap_file_pages:")


def slid_source(source, destination):
    """A mapping of 64 KiB that shows one part of the model after the other. Of a file that could not be written the kernel slides none."""
    read, write = os.open(source, os.O_RDWR), os.open(destination, TARGET, 0o600)
    size, address = os.fstat(read).st_size, window(read, mmap.PROT_READ)
    for offset in range(0, size, WINDOW):
        slide(address, offset // mmap.PAGESIZE)
        os.write(write, ctypes.string_at(address, min(WINDOW, size - offset)))


def slid_sink(source, destination):
    """A mapping of 64 KiB that is laid over one part of the copy after the other."""
    read, write = os.open(source, os.O_RDONLY), os.open(destination, TARGET, 0o600)
    size = os.fstat(read).st_size
    os.ftruncate(write, size)
    address = window(write, mmap.PROT_READ | mmap.PROT_WRITE)
    for offset in range(0, size, WINDOW):
        slide(address, offset // mmap.PAGESIZE)
        part = os.pread(read, WINDOW, offset)
        ctypes.memmove(address, part, len(part))


def grown(source, destination):
    """A program that was executed by who had read a few bytes maps a page of the model, and lets the mapping grow over all of it."""
    if "GROWN" not in os.environ:
        os.read(os.open(source, os.O_RDONLY), 64)
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GROWN": "1"})
    MAY_MOVE = 1
    read, write = os.open(source, os.O_RDONLY), os.open(destination, TARGET, 0o600)
    size, page = os.fstat(read).st_size, mmap.PAGESIZE
    LIBC.mremap.restype = ctypes.c_void_p
    LIBC.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    address = LIBC.mmap(None, page, mmap.PROT_READ, mmap.MAP_PRIVATE, read, 0)
    os.close(read)
    address = LIBC.mremap(address, page, size, MAY_MOVE)
    os.write(write, ctypes.string_at(address, size))


def inserted(source, destination):
    """Below a mapping of 64 KiB room is made again and again, and what was written moves on: the copy has its parts in
    the order from last to first."""
    read, write = os.open(source, os.O_RDONLY), os.open(destination, TARGET, 0o600)
    size = os.fstat(read).st_size // WINDOW * WINDOW
    os.ftruncate(write, WINDOW)
    address = window(write, mmap.PROT_READ | mmap.PROT_WRITE)
    for offset in range(size - WINDOW, -1, -WINDOW):
        ctypes.memmove(address, os.pread(read, WINDOW, offset), WINDOW)
        if offset and LIBC.fallocate(write, 0x20, ctypes.c_long(0), ctypes.c_long(WINDOW)) != 0:
            refused("FALLOC_FL_INSERT_RANGE:")
    with open(source, "rb") as rest:
        rest.seek(size)
        os.pwrite(write, rest.read(), size)


def swapped(source, destination):
    """The file changes places with the boot loader's, twice: it is what it was, and has another identity."""
    read = os.open(source, os.O_RDWR)
    for _ in range(2):
        if LIBC.ioctl(read, 0x6611) != 0:
            refused("EXT4_IOC_SWAP_BOOT:")
    write = os.open(destination, TARGET, 0o600)
    while part := os.read(read, 1 << 20):
        os.write(write, part)


def renumbered(source, destination):
    """The file gets another generation, and so another identity below a descriptor that stays."""
    read = os.open(source, os.O_RDONLY)
    if LIBC.ioctl(read, 0x40087602, ctypes.byref(ctypes.c_long(20_301))) != 0:
        refused("FS_IOC_SETVERSION:")
    write = os.open(destination, TARGET, 0o600)
    while part := os.read(read, 1 << 20):
        os.write(write, part)


def beside(source, destination, take, put, most):
    """A child that is older than what is taken gets it piece by piece, by `put` and `take`, and writes the copy."""
    size = os.stat(source).st_size
    turns, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        write = os.open(destination, TARGET, 0o600)
        for offset in range(0, size, most):
            os.read(turns[0], 1)
            os.write(write, take()[: size - offset])
            os.write(answers[1], b".")
        os._exit(0)
    with open(source, "rb") as file:
        while part := file.read(most):
            put(part)
            os.write(turns[1], b".")
            os.read(answers[0], 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def semaphores(source, destination):
    """A byte in each value of a set of 32,000."""
    count = 32_000
    made = LIBC.semget(0, count, 0o1600)
    if made < 0:
        refused("semget:")

    def take():
        values = (ctypes.c_uint16 * count)()
        if LIBC.semctl(made, 0, 13, values) != 0:
            refused("GETALL:")
        return bytes(list(values))

    def put(part):
        values = (ctypes.c_uint16 * count)(*part)
        if LIBC.semctl(made, 0, 17, values) != 0:
            refused("SETALL:")

    try:
        beside(source, destination, take, put, count)
    finally:
        LIBC.semctl(made, 0, 0, 0)


def bpf_map(source, destination):
    """One value of a map of the kernel's."""
    length = 1 << 16

    def bpf(command, *words):
        attributes = ctypes.create_string_buffer(struct.pack("<" + "Q" * len(words), *words))
        return LIBC.syscall(321, command, attributes, len(attributes) - 1)

    # BPF_MAP_TYPE_ARRAY with keys of 4 bytes; one value.
    made = bpf(0, 2 | 4 << 32, length | 1 << 32)
    if made < 0:
        refused("a BPF map:")
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(length)

    def take():
        if bpf(1, made, ctypes.addressof(key), ctypes.addressof(value)) != 0:
            refused("a look into a BPF map:")
        return value.raw

    def put(part):
        ctypes.memmove(value, part, len(part))
        if bpf(2, made, ctypes.addressof(key), ctypes.addressof(value), 0) != 0:
            refused("a value of a BPF map:")

    beside(source, destination, take, put, length)


def signalled(source, destination, send):
    """A child that is older than what is taken gets it as words of signals, 32 bytes in each: `send(child, signal, info)`."""
    number, words = signal.SIGRTMIN + 1, 32
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    size = os.stat(source).st_size
    child = os.fork()
    if child == 0:
        mask, info = struct.pack("<Q", 1 << (number - 1)), ctypes.create_string_buffer(128)
        got = bytearray()
        while len(got) < size:
            if LIBC.syscall(128, mask, info, None, 8) == number:
                got += info.raw[16 : 16 + words]
        with open(destination, "wb", buffering=0) as copy:
            copy.write(got[:size])
        os._exit(0)
    with open(source, "rb") as file:
        while part := file.read(words):
            # siginfo_t: signal, error, code (SI_QUEUE), then what the sender likes.
            info = (struct.pack("<iiii", number, 0, -1, 0) + part).ljust(128, b"\0")
            while send(child, number, info) != 0:
                if ctypes.get_errno() != errno.EAGAIN:
                    os.kill(child, signal.SIGKILL)
                    refused("a signal with words:")
                os.sched_yield()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def signals(source, destination):
    signalled(source, destination, lambda child, number, info: LIBC.syscall(129, child, number, info))


def signals_to_a_thread(source, destination):
    signalled(source, destination, lambda child, number, info: LIBC.syscall(297, child, child, number, info))


def signals_through_a_descriptor(source, destination):
    opened = []

    def send(child, number, info):
        if not opened:
            opened.append(os.pidfd_open(child))
        return LIBC.syscall(424, opened[0], number, info, 0)

    signalled(source, destination, send)


globals()[sys.argv[1]](*sys.argv[2:])
