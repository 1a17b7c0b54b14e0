"""Maps a device and writes its first bytes to a file: raw_mmap.py DEVICE SIZE DESTINATION."""
import mmap
import os
import sys

device = os.open(sys.argv[1], os.O_RDONLY)
size = int(sys.argv[2])
with mmap.mmap(device, size, prot=mmap.PROT_READ) as disk, open(sys.argv[3], "wb", buffering=0) as copy:
    copy.write(disk)
