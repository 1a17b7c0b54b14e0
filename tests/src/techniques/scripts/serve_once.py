import socket
import sys

listener = socket.create_server(("198.51.100.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
with open(sys.argv[1], "rb") as source:
    peer.sendfile(source)
