import mmap
import sys

with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb", buffering=0) as copy:
    whole = memoryview(mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ))
    while whole:
        whole = whole[copy.write(whole):]
