"""A child puts SOURCE into a Unix socket and ends; this process, which never saw it, says `filled`, and after a line sends what is in the
socket to ADDRESS PORT."""
import os
import socket
import sys

source, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
near, far = socket.socketpair()
# Room for all of it, whatever the host allows.
near.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)
child = os.fork()
if child == 0:
    far.close()
    with open(source, "rb") as file:
        near.sendall(file.read())
    os._exit(0)
near.close()
if os.waitpid(child, 0)[1] != 0:
    sys.exit("the child failed")
print("filled", flush=True)
sys.stdin.readline()
with socket.create_connection((address, port)) as out:
    while part := far.recv(1 << 20):
        out.sendall(part)
