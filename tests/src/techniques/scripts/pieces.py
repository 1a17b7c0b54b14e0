"""Many small carriers: one process writes SOURCE in pieces of SIZE bytes into files of FOLDER, and for each of them another
process reads it and sends it to ADDRESS PORT. The readers are forked before anything is taken.
"""

import os
import socket
import sys

SOURCE, SIZE, FOLDER, ADDRESS, PORT = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
whole = os.stat(SOURCE).st_size
pieces = []
# One connection is handed down to all: the outside waits for one.
peer = socket.create_connection((ADDRESS, PORT))
for number in range(-(-whole // SIZE)):
    go_out, go_in = os.pipe()
    child = os.fork()
    if child == 0:
        for _, earlier in pieces:
            os.close(earlier)
        os.close(go_in)
        # The end of the pipe, not a byte: the pipe carries nothing.
        os.read(go_out, 1)
        with open(FOLDER + "/piece-%d" % number, "rb", buffering=0) as piece:
            while chunk := piece.read(SIZE):
                peer.sendall(chunk)
        os._exit(0)
    os.close(go_out)
    pieces.append((child, go_in))
peer.close()
with open(SOURCE, "rb", buffering=0) as source:
    for number, (child, go_in) in enumerate(pieces):
        with open(FOLDER + "/piece-%d" % number, "wb", buffering=0) as piece:
            piece.write(source.read(SIZE))
        os.close(go_in)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit("a reader failed")
