"""Has a node open, takes a shard, or hands the node on: gpu.py NODE STEP...

Steps: open, name (O_PATH), take=PATH, keep=PATH (has it open), give=SOCKET, get=SOCKET, wait (says `ready`, then waits for a line).
"""
import os
import socket
import sys

kept = []
for step in sys.argv[2:]:
    what, _, path = step.partition("=")
    if what == "open":
        kept.append(os.open(sys.argv[1], os.O_RDONLY))
    elif what == "name":
        kept.append(os.open(sys.argv[1], os.O_PATH))
    elif what == "take":
        with open(path, "rb", buffering=0) as shard:
            while shard.read(1 << 20):
                pass
    elif what == "keep":
        kept.insert(0, os.open(path, os.O_RDONLY))
    elif what == "give":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        print("ready", flush=True)
        socket.send_fds(listener.accept()[0], [b"x"], kept)
    elif what == "get":
        sender = socket.socket(socket.AF_UNIX)
        sender.connect(path)
        kept += socket.recv_fds(sender, 1, 1)[1]
    else:
        print("ready", flush=True)
        sys.stdin.readline()
