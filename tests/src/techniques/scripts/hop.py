"""One hop of a relay: takes connections at LISTEN and sends all that comes on to NEXT.

LISTEN and NEXT are `unix:PATH` or `tcp:ADDRESS:PORT`. Says `ready` once it listens, and connects to NEXT before: that
connection is older than any byte. Ends with its first client.
"""

import socket
import sys


def end(text):
    kind, _, address = text.partition(":")
    if kind == "unix":
        return socket.AF_UNIX, address
    address, _, port = address.rpartition(":")
    return socket.AF_INET, (address, int(port))


family, address = end(sys.argv[1])
listener = socket.socket(family)
listener.bind(address)
listener.listen()
family, address = end(sys.argv[2])
following = socket.socket(family)
following.connect(address)
name = listener.getsockname()
print("ready", name if isinstance(name, str) else name[1], flush=True)
client, _ = listener.accept()
while chunk := client.recv(1 << 16):
    following.sendall(chunk)
