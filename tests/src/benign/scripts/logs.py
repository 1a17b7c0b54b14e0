import os
import socket
import sys

path, log, shards = sys.argv[1], sys.argv[2], sys.argv[3:]
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind(path)
reader = os.fork()
if reader == 0:
    # The log daemon: holds nothing, writes what comes.
    with open(log, "wb") as out:
        while (line := daemon.recv(1 << 16)) != b"end":
            out.write(line + b"\n")
    os._exit(0)
daemon.close()
for shard in shards:
    with open(shard, "rb") as file:
        while file.read(1 << 20):
            pass
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.connect(path)
for request in range(500):
    server.send(f"<14>vllm: request {request} took {request % 97} ms, 128 tokens".encode())
server.send(b"end")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]))
