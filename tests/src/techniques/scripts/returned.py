"""A child shares a socket with its parent, which sends SOURCE through it to nobody who reads it; the child takes it back out of the
socket and writes COPY, from the queue of errors (KIND stamps) or from what was not acknowledged yet (KIND repair). The child is forked
before anything is taken."""

import os
import select
import socket
import sys

KIND, SOURCE, COPY = sys.argv[1:4]
SIZE = os.stat(SOURCE).st_size
SO_TIMESTAMPING, TX_SOFTWARE, SOFTWARE = 37, 1 << 1, 1 << 4
TCP_REPAIR, TCP_REPAIR_QUEUE, SEND_QUEUE = 19, 20, 2
CHUNK = 1024

other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if KIND == "stamps" else socket.SOCK_STREAM)
other.bind(("127.0.0.1", 0))
sock = socket.socket(socket.AF_INET, other.type)
sock.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
sock.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)
if KIND == "stamps":
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE | SOFTWARE)
else:
    other.listen()
sock.connect(other.getsockname())
if KIND == "repair":
    # From here on nothing leaves, and all that is sent can be looked at.
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
sent_out, sent_in = os.pipe()
done_out, done_in = os.pipe()


def from_errors(copy):
    left = SIZE
    while left > 0:
        os.read(sent_out, 1)
        poll = select.poll()
        poll.register(sock, select.POLLERR)
        poll.poll()
        # The headers that were put before it come back as well.
        packet = sock.recvmsg(1 << 16, 1 << 10, socket.MSG_ERRQUEUE)[0]
        chunk = packet[-CHUNK:] if left >= CHUNK else packet[-left:]
        copy.write(chunk)
        left -= len(chunk)
        os.write(done_in, b".")


def from_queue(copy):
    left = SIZE
    while left > 0:
        want = int(os.read(sent_out, 16))
        chunk = sock.recv(1 << 24, socket.MSG_PEEK)[-want:]
        copy.write(chunk)
        left -= want
        os.write(done_in, b".")


child = os.fork()
if child == 0:
    with open(COPY, "wb") as copy:
        (from_errors if KIND == "stamps" else from_queue)(copy)
    os._exit(0)
with open(SOURCE, "rb") as source:
    while chunk := source.read(CHUNK if KIND == "stamps" else 1 << 22):
        if KIND == "stamps":
            sock.send(chunk)
            os.write(sent_in, b".")
        else:
            sock.sendall(chunk)
            os.write(sent_in, b"%d" % len(chunk))
        os.read(done_out, 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
