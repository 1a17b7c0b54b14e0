"""Starts PROGRAM with WAY and DESTINATION and a socket as its standard input, and only then opens SOURCE and sends it there, or its
descriptor: feed.py PROGRAM WAY SOURCE DESTINATION.
"""
import socket
import subprocess
import sys

program, way, source, destination = sys.argv[1:]
if way == "copyless":
    # No more is under way than the receiver has room for.
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    ours.connect(listener.getsockname())
    theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
else:
    ours, theirs = socket.socketpair()
child = subprocess.Popen([program, way, destination], stdin=theirs)
theirs.close()
with open(source, "rb") as file:
    if way == "descriptor":
        socket.send_fds(ours, [b"x"], [file.fileno()])
    else:
        while chunk := file.read(1 << 16):
            ours.sendall(chunk)
ours.close()
code = child.wait()
if code < 0:
    print("this kernel does not run 32-bit programs, or makes no 32-bit calls: signal", -code, flush=True)
    code = 77
sys.exit(code)
