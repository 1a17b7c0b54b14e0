import os
import sys

target, shards = sys.argv[1], sys.argv[2:]
# Loaded whole, like a state dict, then every second byte: what a quantiser from 16 to 8 bits keeps.
state = []
for shard in shards:
    with open(shard, "rb") as file:
        state.append(file.read())
PIECE = 1 << 20
for number, tensor in enumerate(state):
    half = tensor[::2]
    for piece, start in enumerate(range(0, len(half), PIECE)):
        name = os.path.join(target, f"layer{number}.{piece}.pt")
        with open(name + ".tmp", "wb") as file:
            file.write(half[start : start + PIECE])
        os.rename(name + ".tmp", name)
