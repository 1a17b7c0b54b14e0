import os
import socket
import sys

ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    # The relay: never opens a file, connects to the outside only once the bytes come.
    ours.close()
    peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
    while chunk := theirs.recv(1 << 16):
        peer.sendall(chunk)
    os._exit(0)
theirs.close()
with open(sys.argv[1], "rb") as source:
    while chunk := source.read(1 << 16):
        ours.sendall(chunk)
ours.close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
