import ctypes
import os
import signal
import sys

CLONE, CLONE_FILES = 56, 0x400
libc = ctypes.CDLL(None, use_errno=True)
told, tell = os.pipe()
child = libc.syscall(CLONE, ctypes.c_ulong(CLONE_FILES | signal.SIGCHLD), None, None, None, ctypes.c_ulong(0))
if child == 0:
    # Says which descriptors there are now; the child never opened any.
    source, copy = os.read(told, 2)
    while chunk := os.read(source, 1 << 20):
        os.write(copy, chunk)
    os._exit(0)
source = os.open(sys.argv[1], os.O_RDONLY)
copy = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
os.write(tell, bytes([source, copy]))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
