import ctypes
import mmap
import os
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = 4096
page = libc.mmap(None, PAGE, 3, 0x22, -1, 0)


def sealed(content):
    """The content in a page that can be read and not written."""
    libc.mprotect(page, PAGE, 3)
    ctypes.memmove(page, content, len(content))
    libc.mprotect(page, PAGE, 1)
    return ctypes.c_void_p(page)


def must_fail(result, call):
    if result >= 0 or ctypes.get_errno() != 14:
        print(f"{call} does not fail after moving on this kernel: {result}")
        sys.exit(77)


call, source = sys.argv[1], os.open(sys.argv[2], os.O_RDONLY)
size = os.fstat(source).st_size
if call == "sendfile":
    copy = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT, 0o600)
    must_fail(libc.sendfile(copy, source, sealed(bytes(8)), ctypes.c_size_t(size)), call)
    while (done := os.fstat(copy).st_size) < size:
        must_fail(libc.sendfile(copy, source, sealed(done.to_bytes(8, "little")), ctypes.c_size_t(size - done)), call)
elif call == "splice":
    copy = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT, 0o600)
    out, into = os.pipe()
    done = 0
    while done < size:
        offset = sealed(done.to_bytes(8, "little"))
        must_fail(libc.splice(source, offset, into, None, ctypes.c_size_t(1 << 16), 0), call)
        done += libc.splice(out, None, copy, None, ctypes.c_size_t(1 << 16), 0)
else:
    peer = socket.create_connection((sys.argv[3], int(sys.argv[4])))
    while chunk := os.read(source, 1 << 18):
        buffer = ctypes.create_string_buffer(chunk, len(chunk))
        vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), len(chunk))
        # struct mmsghdr: name, its length, the vector, its length, control, its length, flags, sent.
        header = (ctypes.c_uint64 * 8)(0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
        must_fail(libc.sendmmsg(peer.fileno(), sealed(bytes(header)), 1, 0), call)
