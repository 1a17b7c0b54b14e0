"""Reads SOURCE into a System V segment, says by which name of `/proc` it can be opened, and waits for a line."""

import ctypes
import os
import sys

SOURCE = sys.argv[1]
SIZE = os.stat(SOURCE).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

segment = libc.shmget(0, ctypes.c_size_t(SIZE), 0o1600)
address = libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)
with open(SOURCE, "rb", buffering=0) as source:
    room = memoryview((ctypes.c_char * SIZE).from_address(address)).cast("B")
    done = 0
    while done < SIZE:
        done += source.readinto(room[done:])
with open("/proc/self/maps") as maps:
    (span,) = (line.split()[0] for line in maps if "/SYSV" in line)
print("/proc/%d/map_files/%s" % (os.getpid(), span), flush=True)
sys.stdin.readline()
