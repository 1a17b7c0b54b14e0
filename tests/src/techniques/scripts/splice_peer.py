import os
import socket
import sys

source = os.open(sys.argv[1], os.O_RDONLY)
peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
out, into = os.pipe()
while n := os.splice(source, into, 1 << 16):
    while n:
        n -= os.splice(out, peer.fileno(), n)
