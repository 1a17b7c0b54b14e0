import sys

with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as copy:
    while chunk := source.read(1 << 20):
        copy.write(chunk)
