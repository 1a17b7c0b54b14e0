import os
import sys

with open(sys.argv[1], "rb") as source:
    whole = source.read()
copy = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
part = -(-len(whole) // 4)
children = []
for start in range(0, len(whole), part):
    child = os.fork()
    if child == 0:
        os.pwrite(copy, memoryview(whole)[start : start + part], start)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
