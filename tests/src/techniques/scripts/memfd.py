import os
import sys

stage = os.memfd_create("stage")
go_out, go_in = os.pipe()
# The child is forked before anything was taken: only the memfd links it to the bytes.
child = os.fork()
if child == 0:
    os.close(go_in)
    os.read(go_out, 1)
    copy = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    offset = 0
    while n := os.sendfile(copy, stage, offset, 1 << 20):
        offset += n
    os._exit(0)
with open(sys.argv[1], "rb", buffering=0) as source:
    while chunk := source.read(1 << 20):
        os.write(stage, chunk)
os.close(go_in)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
