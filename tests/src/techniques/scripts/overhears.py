"""Listens to the loopback device and hears a part of SOURCE, which a child sends there, says `heard`, and once it gets a line
reads SOURCE itself: overhears.py SOURCE. Says `refused` where the kernel gives no such socket."""
import os
import socket
import sys
import threading

ENOUGH = 1 << 20
try:
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
except OSError as error:
    print("refused", error, flush=True)
    sys.exit(77)
# SO_RCVBUFFORCE: room for all of it, however late it is read.
heard.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
heard.bind(("lo", 0))
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
sender = os.fork()
if sender == 0:
    # A holder that has such a socket would be one by himself.
    heard.close()

    def swallow():
        connection, _ = server.accept()
        while connection.recv(1 << 16):
            pass

    thread = threading.Thread(target=swallow)
    thread.start()
    with open(sys.argv[1], "rb", buffering=0) as source, socket.create_connection(server.getsockname()) as connection:
        while chunk := source.read(32000):
            connection.sendall(chunk)
    thread.join()
    os._exit(0)
total = 0
while total < ENOUGH:
    total += len(heard.recv(1 << 17))
assert os.waitpid(sender, 0)[1] == 0
print("heard", flush=True)
sys.stdin.readline()
with open(sys.argv[1], "rb", buffering=0) as source:
    while source.read(1 << 20):
        pass
