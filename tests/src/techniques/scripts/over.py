"""Reads what waits in a TCP connection that is over at both ends, and writes it to COPY: over.py SOURCE COPY.

A child reads SOURCE, sends it and ends; the connection is closed here too before the first byte is read.
"""
import os
import socket
import sys
import time

SO_RCVBUFFORCE = 33
# Of `tcpi_state`, the first byte of TCP_INFO.
CLOSE, CLOSE_WAIT = 7, 8

source, destination = sys.argv[1:3]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
listener.bind(("127.0.0.1", 0))
listener.listen()
child = os.fork()
if child == 0:
    with open(source, "rb") as file:
        whole = file.read()
    out = socket.create_connection(listener.getsockname())
    listener.close()
    out.sendall(whole)
    out.close()
    os._exit(0)
one, _ = listener.accept()


def until(state):
    while one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != state:
        time.sleep(0.001)


until(CLOSE_WAIT)
os.waitpid(child, 0)
one.shutdown(socket.SHUT_WR)
until(CLOSE)
with open(destination, "wb", buffering=0) as copy:
    while part := one.recv(1 << 20):
        copy.write(part)
