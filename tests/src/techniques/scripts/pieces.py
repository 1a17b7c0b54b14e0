"""Many small carriers: one process writes SOURCE in pieces of SIZE bytes into files of FOLDER, and a dozen others take turns
to read one each and send it to ADDRESS PORT. They are forked before anything is taken.
"""

import os
import socket
import sys

SOURCE, SIZE, FOLDER, ADDRESS, PORT = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
READERS = 12
# One connection is handed down to all: the outside waits for one.
peer = socket.create_connection((ADDRESS, PORT))
done_out, done_in = os.pipe()
readers = []
for reader in range(READERS):
    go_out, go_in = os.pipe()
    child = os.fork()
    if child == 0:
        for _, earlier in readers:
            os.close(earlier)
        os.close(go_in)
        number = reader
        # A byte for each piece: it says that there is one.
        while os.read(go_out, 1):
            with open(FOLDER + "/piece-%d" % number, "rb", buffering=0) as piece:
                while chunk := piece.read(SIZE):
                    peer.sendall(chunk)
            number += READERS
            os.write(done_in, b".")
        os._exit(0)
    os.close(go_out)
    readers.append((child, go_in))
peer.close()
with open(SOURCE, "rb", buffering=0) as source:
    number = 0
    while chunk := source.read(SIZE):
        with open(FOLDER + "/piece-%d" % number, "wb", buffering=0) as piece:
            piece.write(chunk)
        os.write(readers[number % READERS][1], b".")
        os.read(done_out, 1)
        number += 1
for child, go_in in readers:
    os.close(go_in)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit("a reader failed")
