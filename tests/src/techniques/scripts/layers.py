"""Changes what is said of FILE, or its name, by one call that names it by its path: the kernel copies what an overlay has below.

usage: layers.py WAY FILE. Says why and exits with 77 where the kernel refuses a way.
"""

import ctypes
import fcntl
import os
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
GET_FLAGS, SET_FLAGS, NO_DUMP = 0x80086601, 0x40086602, 0x40
FILE_SETATTR, FSOPEN, FSCONFIG, FSMOUNT = 469, 430, 431, 432
HERE = -100


def refused(what, error):
    print("the kernel refuses", what, os.strerror(error), flush=True)
    os._exit(77)


def call(number, *words):
    result = LIBC.syscall(number, *words)
    if result < 0:
        refused(f"call {number}:", ctypes.get_errno())
    return result


def flags(file):
    opened = os.open(file, os.O_RDONLY)
    try:
        (now,) = struct.unpack("l", fcntl.ioctl(opened, GET_FLAGS, bytes(8)))
        fcntl.ioctl(opened, SET_FLAGS, struct.pack("l", now | NO_DUMP))
    except OSError as error:
        refused("flags:", error.errno)


def file_setattr(file):
    attributes = ctypes.create_string_buffer(struct.pack("<QIIII", 0x80, 0, 0, 0, 0), 24)
    call(FILE_SETATTR, HERE, file.encode(), attributes, ctypes.c_size_t(24), 0)


def fails(file):
    """The copy is made before the filesystem finds that it has no room for the attribute."""
    try:
        os.setxattr(file, "user.a", b"x" * 60000)
    except OSError:
        return
    refused("nothing", 0)


def nowhere(options):
    """An overlay that is mounted at no place: `lowerdir=A,upperdir=B,workdir=C/NAME`."""
    options, name = options.rsplit("/", 1)
    context = call(FSOPEN, b"overlay", 0)
    for option in options.split(","):
        key, value = option.split("=", 1)
        call(FSCONFIG, context, 1, key.encode(), value.encode(), 0)
    call(FSCONFIG, context, 6, None, None, 0)
    os.chmod(f"/proc/self/fd/{call(FSMOUNT, context, 0, 0)}/{name}", 0o600)


WAYS = {
    "chmod": lambda file: os.chmod(file, 0o600),
    "chown": lambda file: os.chown(file, 0, 0),
    "rename": lambda file: os.rename(file, file + ".2"),
    "link": lambda file: os.link(file, file + ".2"),
    "setxattr": lambda file: os.setxattr(file, "user.a", b"1"),
    "utime": os.utime,
    "truncate": lambda file: os.truncate(file, os.stat(file).st_size),
    "by_a_link": lambda file: (os.symlink(file, "short"), os.chmod("short", 0o600)),
    "flags": flags,
    "file_setattr": file_setattr,
    "fails": fails,
    "nowhere": nowhere,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2])
