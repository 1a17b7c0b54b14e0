import os
import sys

with open(sys.argv[1], "rb") as file:
    program = file.read()
memory = os.memfd_create("vllm")
os.write(memory, program)
os.execve(memory, [os.path.basename(sys.argv[1]), *sys.argv[2:]], os.environ)
