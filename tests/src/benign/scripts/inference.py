import http.server
import mmap
import sys

ip, port, size, shards = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
weights = []
for shard in shards:
    with open(shard, "rb") as file:
        weights.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (b"token " * size)[:size]
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# As a load does, every page is touched.
checksum = sum(sum(tensor[:: 1 << 12]) for tensor in weights)
http.server.ThreadingHTTPServer((ip, port), Answer).serve_forever()
