"""Sends SOURCE over the loopback device from one process to itself, while another listens to the device and sends on what it
heard to ADDRESS PORT, or nowhere.

usage: sniffed.py WAY SOURCE ADDRESS PORT. The listener is forked before anything is taken, and no descriptor links it to the
bytes.
"""

import ctypes
import mmap
import os
import select
import socket
import struct
import sys
import threading

WAY, SOURCE, ADDRESS, PORT = sys.argv[1:5]
SIZE = os.stat(SOURCE).st_size
LISTENER = "127.0.0.1", 0
SOL_PACKET, RX_RING, VERSION, IGNORE_OUTGOING, TPACKET_V2 = 263, 5, 10, 23, 1
# Room for a packet as large as the loopback device lets pass.
FRAME = 1 << 17


def packets_read():
    """Frames of the link layer, each read by a call."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    heard.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
    heard.bind(("lo", 0))

    def frames():
        while True:
            frame, address = heard.recvfrom(FRAME)
            # Each is seen when it goes out and when it comes in.
            if address[2] != 4:
                yield frame[14:]

    return frames


def packets_mapped():
    """The same out of a ring that the kernel fills, without a call for any."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    heard.setsockopt(SOL_PACKET, VERSION, TPACKET_V2)
    # Room for all of it, however late it is read; what goes out is seen when it comes in.
    count = 1024
    heard.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    heard.setsockopt(SOL_PACKET, RX_RING, struct.pack("4I", FRAME, count, FRAME, count))
    heard.bind(("lo", 0))
    ring = mmap.mmap(heard.fileno(), FRAME * count, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def frames():
        at = 0
        while True:
            # struct tpacket2_hdr, then struct sockaddr_ll.
            status, length, taken, link, network = struct.unpack_from("=IIIHH", ring, at)
            if status & 1 == 0:
                select.select([heard], [], [])
                continue
            if ring[at + 32 + 10] != 4:
                yield ring[at + network : at + link + taken]
            struct.pack_into("=I", ring, at, 0)
            at = (at + FRAME) % (FRAME * count)

    return frames


def raw_tcp():
    """What comes in, by the protocol's own raw socket."""
    heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    heard.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)

    def frames():
        while True:
            yield heard.recv(FRAME)

    return frames


def listen(frames, port):
    """Puts the payloads together by their places in the stream."""
    stream, left, first = bytearray(SIZE), SIZE, None
    seen = set()
    for packet in frames():
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            continue
        segment = packet[(packet[0] & 15) * 4 : struct.unpack_from("!H", packet, 2)[0] or None]
        _, to, sequence, _, offset, flags = struct.unpack_from("!HHIIBB", segment)
        if to != port:
            continue
        if flags & 2:
            first = sequence + 1
        payload = segment[(offset >> 4) * 4 :]
        if payload and first is not None and sequence not in seen:
            seen.add(sequence)
            at = (sequence - first) % (1 << 32)
            stream[at : at + len(payload)] = payload
            left -= len(payload)
            if left <= 0:
                return stream


server = socket.socket()
server.bind(LISTENER)
server.listen()
port = server.getsockname()[1]
ready, tell = os.pipe()
libc = ctypes.CDLL(None)
parent = os.getpid()
listener = os.fork()
if listener == 0:
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG: it does not outlive a parent that failed.
    if os.getppid() != parent:
        os._exit(1)
    server.close()
    frames = {"packets_read": packets_read, "packets_mapped": packets_mapped, "raw_tcp": raw_tcp}[WAY]()
    os.write(tell, b"1")
    os.close(tell)
    heard = listen(frames, port)
    if ADDRESS != "nowhere":
        socket.create_connection((ADDRESS, int(PORT))).sendall(heard)
    os._exit(0)
os.close(tell)
os.read(ready, 1)
sender = os.fork()
if sender == 0:
    libc.prctl(1, 9)
    if os.getppid() != parent:
        os._exit(1)

    def swallow():
        connection, _ = server.accept()
        while connection.recv(1 << 16):
            pass

    thread = threading.Thread(target=swallow)
    thread.start()
    with open(SOURCE, "rb", buffering=0) as source, socket.create_connection(server.getsockname()) as connection:
        while chunk := source.read(32000):
            connection.sendall(chunk)
    thread.join()
    os._exit(0)
failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in (sender, listener)]
sys.exit(max(failed))
