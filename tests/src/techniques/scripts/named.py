"""Sends SOURCE to ADDRESS PORT through a socket that says something else of where it goes: HOW, beside the address LISTED.

- udp: a datagram socket that is connected to LISTED, each call naming ADDRESS;
- raw PROTOCOL: a raw socket that is connected to LISTED, each call naming ADDRESS;
- header PROTOCOL: a raw socket, each call naming LISTED, and the header in each packet ADDRESS;
- corked N: a datagram socket in which N bytes for ADDRESS wait, each call naming LISTED;
- covered: by sendmsg with an address (LISTED) of no length through a socket that is connected to ADDRESS;
- uncorked: two sockets of one port: what a child that holds nothing put into one for this host is let go of by this process, and
  then as much is sent to ADDRESS by the other;
- several N: N datagrams in one call, of which only the last goes to ADDRESS, and the others to LISTED;
- unspecified: a datagram socket that is connected to LISTED, each call naming ADDRESS without a family;
- many N: a datagram socket that is connected to LISTED, N datagrams in one call, each naming ADDRESS;
- unnamed N: the same connected to ADDRESS, each naming nobody.
"""
import ctypes
import os
import socket
import struct
import sys

UDP_CORK = 1
how, source, address, port, listed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
number = int(sys.argv[6]) if len(sys.argv) > 6 else 0
PART = 32_000


def shared_port():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return one


def corks(one, asked, done):
    while asked.recv(1):
        one.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        one.sendto(bytes(PART), ("127.0.0.1", port))
        done.send(b"x")


if how == "uncorked":
    one, other = shared_port(), shared_port()
    one.bind(("0.0.0.0", 0))
    other.bind(one.getsockname())
    ask, asked = socket.socketpair()
    if os.fork() == 0:
        ask.close()
        corks(one, asked, asked)
        os._exit(0)
    asked.close()

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


def place(ip, family=socket.AF_INET):
    packed = struct.pack("=H", family) + struct.pack(">H", port) + socket.inet_aton(ip) + bytes(8)
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


def many(out, name):
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(whole, len(whole))
    parts = [(start, min(PART, len(whole) - start)) for start in range(0, len(whole), PART)]
    for first in range(0, len(parts), number):
        # As many as there are, of which the last ones can be empty: the receiver counts bytes.
        messages = (Message * number)()
        for index, message in enumerate(messages):
            start, length = parts[first + index] if first + index < len(parts) else (0, 0)
            vector = Vector(ctypes.addressof(held) + start, length)
            message.vectors, message.count = ctypes.pointer(vector), 1
            if name is not None:
                message.name, message.name_length = ctypes.addressof(name), 16
        done = 0
        # The kernel may send fewer than it was asked to.
        while done < number:
            rest = ctypes.byref(messages, done * ctypes.sizeof(Message))
            sent = libc.sendmmsg(out.fileno(), rest, number - done, 0)
            if sent <= 0:
                sys.exit("sendmmsg: " + os.strerror(ctypes.get_errno()))
            done += sent


if how == "many":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((listed, port))
    many(out, place(address))
elif how == "unnamed":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((address, port))
    many(out, None)
elif how == "unspecified":
    libc, name = ctypes.CDLL(None, use_errno=True), place(address, socket.AF_UNSPEC)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((listed, port))
    for start in range(0, len(whole), PART):
        part = whole[start : start + PART]
        if libc.sendto(out.fileno(), part, len(part), 0, name, 16) != len(part):
            sys.exit("sendto failed")
elif how == "several":
    several(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
elif how == "udp":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((listed, port))
    for start in range(0, len(whole), 32_000):
        out.sendto(whole[start : start + 32_000], (address, port))
elif how == "corked":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for start in range(0, len(whole), PART):
        out.sendto(whole[start : start + number], socket.MSG_MORE, (address, port))
        out.sendto(whole[start + number : start + PART], (listed, port))
elif how == "covered":
    libc = ctypes.CDLL(None, use_errno=True)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((address, port))
    name = place(listed)
    for start in range(0, len(whole), PART):
        part = whole[start : start + PART]
        held = ctypes.create_string_buffer(part, len(part))
        vector = Vector(ctypes.addressof(held), len(part))
        message = Message(name=ctypes.addressof(name), name_length=0, vectors=ctypes.pointer(vector), count=1)
        if libc.sendmsg(out.fileno(), ctypes.byref(message), 0) != len(part):
            sys.exit("sendmsg: " + os.strerror(ctypes.get_errno()))
elif how == "uncorked":
    for start in range(0, len(whole), PART):
        ask.send(b"x")
        ask.recv(1)
        one.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
        other.sendto(whole[start : start + PART], (address, port))
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
