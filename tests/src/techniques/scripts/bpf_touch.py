import ctypes
import os
import sys

# Opens BPF objects by their ids or pins, and detaches a link: COMMAND ID|PATH. The ids are those of the agent under test and no other's.
LIBC = ctypes.CDLL(None, use_errno=True)
BPF = 321
OBJ_GET, PROG, MAP, LINK, DETACH = 7, 13, 14, 30, 34


def bpf(command, *words):
    attributes = (ctypes.c_uint32 * 32)(*words)
    result = LIBC.syscall(BPF, command, attributes, 128)
    if result < 0:
        sys.exit("bpf %d: %s" % (command, os.strerror(ctypes.get_errno())))
    return result


command = sys.argv[1]
if command == "pin":
    path = ctypes.create_string_buffer(sys.argv[2].encode())
    bpf(OBJ_GET, ctypes.addressof(path) & 0xFFFFFFFF, ctypes.addressof(path) >> 32)
    sys.exit()
number = int(sys.argv[2])
if command == "map":
    bpf(MAP, number)
elif command == "prog":
    bpf(PROG, number)
elif command == "detach":
    bpf(DETACH, bpf(LINK, number))
