"""Opens a device, says so, waits, then copies from it: early.py DEVICE SIZE DESTINATION."""
import os
import sys

device = os.open(sys.argv[1], os.O_RDONLY)
print("open", flush=True)
sys.stdin.readline()
left = int(sys.argv[2])
with open(sys.argv[3], "wb", buffering=0) as copy:
    while left:
        left -= copy.write(os.read(device, min(left, 1 << 20)))
