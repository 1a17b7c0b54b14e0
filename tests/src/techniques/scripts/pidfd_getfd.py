import ctypes
import os
import sys

PIDFD_GETFD = 438
source = os.open(sys.argv[1], os.O_RDONLY)
victim = os.getpid()
child = os.fork()
if child == 0:
    # The inherited descriptor must not be the one that is used.
    os.close(source)
    libc = ctypes.CDLL(None, use_errno=True)
    stolen = libc.syscall(PIDFD_GETFD, os.pidfd_open(victim), source, 0)
    if stolen < 0:
        print("the kernel refuses pidfd_getfd:", os.strerror(ctypes.get_errno()), flush=True)
        os._exit(77)
    with open(sys.argv[2], "wb", buffering=0) as copy:
        while chunk := os.read(stolen, 1 << 20):
            copy.write(chunk)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
