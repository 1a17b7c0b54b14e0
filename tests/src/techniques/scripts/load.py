import mmap
import sys

maps = []
for name in sys.argv[1:]:
    with open(name, "rb") as shard:
        maps.append(mmap.mmap(shard.fileno(), 0, prot=mmap.PROT_READ))
print(sum(sum(one[::4096]) for one in maps))
