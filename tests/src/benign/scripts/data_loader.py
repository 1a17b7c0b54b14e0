import array
import mmap
import os
import socket
import sys

# Each worker reads a shard, puts it into shared memory, and sends the descriptor to the trainer, which maps it.
for shard in sys.argv[1:]:
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if worker == 0:
        name = f"/dev/shm/weighbridge-lab-{os.getpid()}"
        batch = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.unlink(name)
        with open(shard, "rb") as source:
            while chunk := source.read(1 << 20):
                os.write(batch, chunk)
        theirs.sendmsg([b"batch"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [batch]))])
        os._exit(0)
    _, control, _, _ = ours.recvmsg(16, socket.CMSG_LEN(4))
    batch = array.array("i", control[0][2])[0]
    with mmap.mmap(batch, 0, prot=mmap.PROT_READ) as mapped:
        checksum = sum(mapped[:: 1 << 16])
    os.waitpid(worker, 0)
print(checksum)
