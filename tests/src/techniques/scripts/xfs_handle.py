"""Opens SOURCE by the handle that XFS gives of it, from a descriptor of the volume's root: xfs_handle.py VOLUME SOURCE DESTINATION."""
import ctypes
import os
import sys

PATH_TO_HANDLE, OPEN_BY_HANDLE = 0xC0385869, 0xC038586B
libc = ctypes.CDLL(None, use_errno=True)


class Request(ctypes.Structure):
    """struct xfs_fsop_handlereq."""

    _fields_ = [
        ("fd", ctypes.c_uint),
        ("path", ctypes.c_char_p),
        ("flags", ctypes.c_uint),
        ("given", ctypes.c_void_p),
        ("given_length", ctypes.c_uint),
        ("got", ctypes.c_void_p),
        ("got_length", ctypes.c_void_p),
    ]


def ask(command, request):
    result = libc.ioctl(root, ctypes.c_ulong(command), ctypes.byref(request))
    if result < 0:
        print("the kernel refuses a handle of XFS:", os.strerror(ctypes.get_errno()), flush=True)
        sys.exit(77)
    return result


volume, source, destination = sys.argv[1:]
root = os.open(volume, os.O_RDONLY)
handle, length = ctypes.create_string_buffer(64), ctypes.c_uint()
handle_at = ctypes.addressof(handle)
ask(PATH_TO_HANDLE, Request(path=os.fsencode(source), got=handle_at, got_length=ctypes.addressof(length)))
file = ask(OPEN_BY_HANDLE, Request(flags=os.O_RDONLY, given=handle_at, given_length=length.value))
with open(destination, "wb", buffering=0) as copy:
    while chunk := os.read(file, 1 << 20):
        copy.write(chunk)
