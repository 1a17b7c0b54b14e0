"""Takes a file into its memory, says where it is, and waits until it is told to end, or to execute another program."""
import ctypes
import os
import sys

if len(sys.argv) > 2:
    # Somebody is to look at it before it holds anything.
    print("empty", flush=True)
    sys.stdin.readline()
size = os.path.getsize(sys.argv[1])
memory = ctypes.create_string_buffer(size)
with open(sys.argv[1], "rb", buffering=0) as source:
    view = memoryview(memory)
    while size:
        taken = source.readinto(view[len(view) - size:])
        size -= taken
print(ctypes.addressof(memory), len(memory), flush=True)
if sys.stdin.readline() == "exec\n":
    os.execv("/bin/sh", ["sh", "-c", "echo executed; read x"])
