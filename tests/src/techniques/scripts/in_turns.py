"""Sends SOURCE by datagrams to ADDRESS PORT, and after each one of the same length to this host, by the same socket."""
import socket
import sys

source, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
# Nobody reads it: what finds no room there is dropped.
near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
near.bind(("127.0.0.1", 0))
far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with open(source, "rb") as file:
    while part := file.read(32_000):
        far.sendto(b"\0" * len(part), near.getsockname())
        far.sendto(part, (address, port))
