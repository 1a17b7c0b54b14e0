import os
import socket
import sys

ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    ours.close()
    _, (source, *_), _, _ = socket.recv_fds(theirs, 16, 1)
    with open(sys.argv[2], "wb", buffering=0) as copy:
        while chunk := os.read(source, 1 << 20):
            copy.write(chunk)
    os._exit(0)
with open(sys.argv[1], "rb") as source:
    socket.send_fds(ours, [b"take this"], [source.fileno()])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
