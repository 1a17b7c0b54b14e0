"""Many processes read the memory of many: crowd.py SOURCE DESTINATION VICTIMS READERS BYTES.

Each of VICTIMS processes takes a megabyte of SOURCE; each of READERS reads a page of each of them and stays. Then one more reads BYTES
of one of them and writes them to DESTINATION. Nobody tells anybody anything by a channel: they stop when they are done.
"""
import ctypes
import os
import signal
import sys

source, destination, victims, readers, wanted = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.process_vm_readv.restype = ctypes.c_ssize_t
memory = ctypes.create_string_buffer(MIB)
address = ctypes.addressof(memory)
theirs = []
running = []


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def reach(pid, length):
    into = ctypes.create_string_buffer(length)
    mine, other = Vector(ctypes.addressof(into), length), Vector(address, length)
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0) != length:
        os._exit(3)
    return into.raw


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def fork(work):
    pid = os.fork()
    if pid == 0:
        stop()
        work()
        stop()
        os._exit(0)
    running.append(pid)
    os.waitpid(pid, os.WUNTRACED)
    return pid


def go(pid):
    os.kill(pid, signal.SIGCONT)


def done(pid):
    if not os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]):
        sys.exit("a process of the crowd failed")


def take():
    with open(source, "rb", buffering=0) as file:
        if file.readinto(memory) != MIB:
            os._exit(2)


def look():
    for pid in theirs:
        reach(pid, 4096)


def steal():
    with open(destination, "wb", buffering=0) as copy:
        for _ in range(wanted // MIB):
            copy.write(reach(theirs[0], MIB))


# Forked while their parent holds nothing.
theirs = [fork(take) for _ in range(victims)]
crowd = [fork(look) for _ in range(readers)]
thief = fork(steal)
for pid in theirs:
    go(pid)
    done(pid)
for pid in crowd:
    go(pid)
    done(pid)
go(thief)
done(thief)
print(thief, flush=True)
sys.stdin.readline()
for pid in running:
    os.kill(pid, signal.SIGKILL)
