"""SOURCE goes to another process of this host, which throws it away: HOW, with files in WORK.

- path: datagrams of a socket that is not connected to a path;
- netlink: messages between two sockets of user space;
- apart OTHER: datagrams of connected sockets; then two processes that never saw it send each other as many, and one stores them as OTHER.
"""
import os
import socket
import sys

how, source, work = sys.argv[1], sys.argv[2], sys.argv[3]
SIZE = os.stat(source).st_size
PART = 32_000


def pair(name, connect):
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(os.path.join(work, name))
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if connect:
        sender.connect(receiver.getsockname())
        return receiver, sender.send
    return receiver, lambda part: sender.sendto(part, receiver.getsockname())


def netlink():
    ends = [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) for _ in range(2)]
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)
        end.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
    receiver, sender = ends
    receiver.bind((0, 0))
    return receiver, lambda part: sender.sendto(part, (receiver.getsockname()[0], 0))


def pass_on(receiver, send, parts, keep):
    """The receiver is forked first: nothing links it but the socket."""
    child = os.fork()
    if child == 0:
        left = SIZE
        while left > 0:
            part = receiver.recv(1 << 16)
            left -= len(part)
            keep(part)
        os._exit(0)
    for part in parts:
        send(part)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the receiver failed")


def model():
    with open(source, "rb") as file:
        while part := file.read(PART):
            yield part


def zeros():
    for start in range(0, SIZE, PART):
        yield bytes(min(PART, SIZE - start))


def in_a_child(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("a child failed")


if how == "apart":
    # Open until the end, so that the second is not made where the first was in the kernel's memory.
    first, second = pair("first", True), pair("second", True)
    in_a_child(lambda: pass_on(*first, model(), lambda part: None))
    with open(sys.argv[4], "wb") as other:
        pass_on(*second, zeros(), lambda part: os.write(other.fileno(), part))
else:
    receiver, send = netlink() if how == "netlink" else pair("first", False)
    pass_on(receiver, send, model(), lambda part: None)
