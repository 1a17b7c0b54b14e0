import os
import pty
import socket
import sys

peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
child, terminal = pty.fork()
if child == 0:
    os.execvp("base64", ["base64", "-w0", sys.argv[1]])
while True:
    try:
        chunk = os.read(terminal, 1 << 16)
    except OSError:
        # The other end is closed.
        break
    peer.sendall(chunk)
peer.close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
