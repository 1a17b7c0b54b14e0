"""Sends SOURCE to ADDRESS PORT through a socket that says something else of where it goes: HOW, beside the address LISTED.

- udp: a datagram socket that is connected to LISTED, each call naming ADDRESS;
- raw PROTOCOL: a raw socket that is connected to LISTED, each call naming ADDRESS;
- header PROTOCOL: a raw socket, each call naming LISTED, and the header in each packet ADDRESS;
- several N: N datagrams in one call, of which only the last goes to ADDRESS, and the others to LISTED.
"""
import ctypes
import socket
import struct
import sys

how, source, address, port, listed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
number = int(sys.argv[6]) if len(sys.argv) > 6 else 0
with open(source, "rb") as file:
    whole = file.read()


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(Vector)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_uint32),
        ("sent", ctypes.c_uint32),
    ]


def place(ip):
    packed = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(ip) + bytes(8)
    return ctypes.create_string_buffer(packed, 16)


def several(out):
    libc = ctypes.CDLL(None, use_errno=True)
    names = [place(listed)] * (number - 1) + [place(address)]
    cover = ctypes.create_string_buffer(b"x", 1)
    messages = (Message * number)()
    for message, name in zip(messages, names):
        vector = Vector(ctypes.addressof(cover), 1)
        message.name, message.name_length = ctypes.addressof(name), 16
        message.vectors, message.count = ctypes.pointer(vector), 1
    for start in range(0, len(whole), 32_000):
        part = whole[start : start + 32_000]
        held = ctypes.create_string_buffer(part, len(part))
        last = messages[number - 1].vectors[0]
        last.base, last.length = ctypes.addressof(held), len(part)
        if libc.sendmmsg(out.fileno(), messages, number, 0) != number:
            sys.exit("sendmmsg sent fewer")


if how == "several":
    several(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
elif how == "udp":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((listed, port))
    for start in range(0, len(whole), 32_000):
        out.sendto(whole[start : start + 32_000], (address, port))
elif how == "header":
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, number)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    # The kernel fills in the length, the sum and the sender.
    head = struct.pack(">BBHHHBBH4x", 0x45, 0, 0, 0, 0, 64, 253, 0) + socket.inet_aton(address)
    for start in range(0, len(whole), 1400):
        out.sendto(head + whole[start : start + 1400], (listed, 0))
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, number)
    out.connect((listed, 0))
    # An echo reply, which nobody answers.
    head = bytes(8)
    for start in range(0, len(whole), 1400):
        out.sendto(head + whole[start : start + 1400], (address, 0))
