import mmap
import os
import sys

with open(sys.argv[1], "rb") as source, open(sys.argv[2], "w+b") as copy:
    length = os.fstat(source.fileno()).st_size
    copy.truncate(length)
    taken = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
    put = mmap.mmap(copy.fileno(), length, flags=mmap.MAP_SHARED)
    put[:] = taken[:]
