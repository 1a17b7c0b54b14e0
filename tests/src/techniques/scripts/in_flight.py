"""A descriptor of SOURCE lies in a Unix socket and in no table while it says `sent`; after a line it is received and copied."""
import os
import socket
import sys

source, destination = sys.argv[1:]
near, far = socket.socketpair()
file = os.open(source, os.O_RDONLY)
socket.send_fds(near, [b"x"], [file])
os.close(file)
print("sent", flush=True)
sys.stdin.readline()
_, (file, *_), _, _ = socket.recv_fds(far, 1, 1)
with open(destination, "wb", buffering=0) as copy:
    while chunk := os.read(file, 1 << 20):
        copy.write(chunk)
