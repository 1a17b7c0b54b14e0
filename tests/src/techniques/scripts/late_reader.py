"""Accepts one connection and reads nothing from it before the file FILLED is there; then all of it into OUTPUT.

usage: late_reader.py PORT_FILE FILLED OUTPUT ADDRESS: writes its port to PORT_FILE once it listens.
"""

import os
import socket
import sys
import time

PORT_FILE, FILLED, OUTPUT, ADDRESS = sys.argv[1:5]
server = socket.socket()
# A small window: what is on the way stays with the sender.
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
server.bind((ADDRESS, 0))
server.listen()
with open(PORT_FILE + ".new", "w") as file:
    file.write(str(server.getsockname()[1]))
os.rename(PORT_FILE + ".new", PORT_FILE)
connection, _ = server.accept()
while not os.path.exists(FILLED):
    time.sleep(0.01)
with open(OUTPUT, "wb") as output:
    while chunk := connection.recv(1 << 16):
        output.write(chunk)
connection.close()
