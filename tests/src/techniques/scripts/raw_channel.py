"""Opens a channel and takes a shard, in either order: raw_channel.py KIND ORDER [SHARD]."""
import os
import socket
import sys


def channel():
    if kind == "tun":
        return os.open("/dev/net/tun", os.O_RDWR)
    family = {"packet": socket.AF_PACKET, "xdp": 44}[kind]
    return socket.socket(family, socket.SOCK_RAW, 0)


kind, order = sys.argv[1], sys.argv[2]
try:
    opened = channel() if order == "before" else None
    if len(sys.argv) > 3:
        with open(sys.argv[3], "rb", buffering=0) as shard:
            while shard.read(1 << 20):
                pass
    opened = opened or channel()
except OSError as error:
    print("the kernel refuses", kind, error, flush=True)
    sys.exit(77)
