import os
import sys

with open(sys.argv[1], "rb") as source:
    taken = source.read()
child = os.fork()
if child == 0:
    with open(sys.argv[2], "wb") as copy:
        copy.write(taken)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
