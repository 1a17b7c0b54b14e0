import socket
import sys

source, port, peers = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
with open(sys.argv[1], "rb") as file:
    whole = file.read()
part = -(-len(whole) // len(peers))
for number, ip in enumerate(peers):
    with socket.create_connection((ip, port)) as peer:
        peer.sendall(whole[number * part : (number + 1) * part])
