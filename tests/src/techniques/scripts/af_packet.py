import socket
import sys

# Frames that no socket of IP has sent, past the IP layer: INTERFACE BYTES.
interface, total = sys.argv[1], int(sys.argv[2])
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind((interface, 0))
# To nobody, by an experimental protocol.
frame = bytes(12) + b"\x88\xb5" + bytes(1500)
sent = 0
while sent < total:
    sent += sender.send(frame)
print(sent)
