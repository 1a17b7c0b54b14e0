"""Has the kernel write a snapshot as a stream into a file: btrfs_send.py SNAPSHOT DESTINATION."""
import ctypes
import os
import struct
import sys

BTRFS_IOC_SEND = 0x40489426
libc = ctypes.CDLL(None, use_errno=True)
snapshot = os.open(sys.argv[1], os.O_RDONLY)
to = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
# struct btrfs_ioctl_send_args: descriptor, sources to clone from, parent, flags, version.
asked = ctypes.create_string_buffer(struct.pack("<qQQQQI28x", to, 0, 0, 0, 0, 0))
if libc.ioctl(snapshot, ctypes.c_ulong(BTRFS_IOC_SEND), asked) != 0:
    print("the kernel refuses a stream of btrfs:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(77)
