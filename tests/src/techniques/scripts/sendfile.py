import os
import socket
import sys

source = os.open(sys.argv[1], os.O_RDONLY)
peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
offset = 0
while n := os.sendfile(peer.fileno(), source, offset, 1 << 20):
    offset += n
