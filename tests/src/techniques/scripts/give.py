"""A holder writes what it took into the memory of a process that holds nothing, which writes it out: give.py HOW SOURCE COPY.

HOW is `vm` (process_vm_writev) or `mem` (/proc/PID/mem).
"""
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


how, taken, given = sys.argv[1:]
size = os.path.getsize(taken)
memory = ctypes.create_string_buffer(size)
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.read(go[0], 1)
    with open(given, "wb", buffering=0) as copy:
        copy.write(memory)
    os._exit(0)
with open(taken, "rb", buffering=0) as source:
    source.readinto(memory)
mine = Vector(ctypes.addressof(memory), size)
if how == "mem":
    # One call, so that there is nothing in that memory when the call begins.
    theirs = os.open(f"/proc/{child}/mem", os.O_WRONLY)
    assert os.pwrite(theirs, memory, ctypes.addressof(memory)) == size
elif libc.process_vm_writev(child, ctypes.byref(mine), 1, ctypes.byref(mine), 1, 0) != size:
    print("the kernel refuses process_vm_writev:", os.strerror(ctypes.get_errno()), flush=True)
    os.kill(child, 9)
    sys.exit(77)
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
