import socket
import sys

UDP_SEGMENT = 103
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1400)
except OSError as error:
    print("this kernel cuts no datagrams:", error)
    sys.exit(77)
out.connect((sys.argv[2], int(sys.argv[3])))
with open(sys.argv[1], "rb") as source:
    while chunk := source.read(40 * 1400):
        out.send(chunk)
