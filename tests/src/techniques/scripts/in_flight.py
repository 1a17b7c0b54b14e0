"""A descriptor of SOURCE lies in a Unix socket and in no table while it says `sent`; after a line it is received and copied. With `execute`
it says `received` then, and after another line another program copies it: in_flight.py SOURCE DESTINATION [execute].
"""
import os
import socket
import sys

source, destination = sys.argv[1:3]
near, far = socket.socketpair()
file = os.open(source, os.O_RDONLY)
socket.send_fds(near, [b"x"], [file])
os.close(file)
print("sent", flush=True)
sys.stdin.readline()
_, (file, *_), _, _ = socket.recv_fds(far, 1, 1)
if len(sys.argv) > 3:
    print("received", flush=True)
    sys.stdin.readline()
    os.dup2(file, 0)
    os.dup2(os.open(destination, os.O_WRONLY | os.O_CREAT, 0o600), 1)
    os.execlp("cat", "cat")
with open(destination, "wb", buffering=0) as copy:
    while chunk := os.read(file, 1 << 20):
        copy.write(chunk)
