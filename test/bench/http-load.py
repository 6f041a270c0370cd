# SPDX-License-Identifier: Apache-2.0
# Load for the bench of images over HTTP: clients of the images API, one process for each connection, that cost as little
# as a client can: bytes go between file and socket through one aligned buffer, past the page cache.
#
#   http-load.py put|get PORT PATH CLIENTS LENGTH FILE     all of the file; the end is flushed
#   http-load.py holes PORT PATH CLIENTS LENGTH FILE       as put, but holes of the file are zeroed there
#   http-load.py small-put|small-get PORT PATH CLIENTS LENGTH SECONDS
#   http-load.py extents PORT PATH
#   http-load.py zero PORT PATH LENGTH
#
# Prints one JSON object: seconds and CPU seconds of the clients, and what belongs to the kind.

import json
import mmap
import os
import random
import resource
import socket
import sys
import time
import traceback

PIECE = 64 << 20
BUFFER = 4 << 20
SMALL = 4096


class Connection:
    def __init__(self, port, path):
        self.path = path
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, headers, body=b"", query=""):
        lines = f"{method} {self.path}{query} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"
        self.socket.sendall(lines.encode() + body)

    def head(self):
        """@returns headers in lower case, and what came behind them"""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError("the server closed the connection")
            data += more
        head, rest = data.split(b"\r\n\r\n", 1)
        status = int(head.split(b" ", 2)[1])
        if status not in (200, 206):
            raise RuntimeError(head.decode())
        return head.lower(), rest

    def done(self):
        head, rest = self.head()
        if b"content-length: 0" not in head or rest:
            raise RuntimeError(head.decode())

    def patch(self, change):
        body = json.dumps(change).encode()
        self.ask("PATCH", f"content-length: {len(body)}\r\n", body)
        self.done()


def put_piece(connection, file, buffer, start, length):
    connection.ask(
        "PUT",
        f"content-range: bytes {start}-{start + length - 1}/*\r\ncontent-length: {length}\r\n",
        query="?flush=n",
    )
    for at in range(start, start + length, BUFFER):
        part = min(BUFFER, start + length - at)
        got = os.preadv(file, [buffer], at)
        connection.socket.sendall(memoryview(buffer)[: min(part, got)])
    connection.done()


def get_piece(connection, file, buffer, start, length):
    connection.ask("GET", f"range: bytes={start}-{start + length - 1}\r\n")
    _, rest = connection.head()
    view = memoryview(buffer)
    for at in range(start, start + length, BUFFER):
        part = min(BUFFER, start + length - at)
        have = min(len(rest), part)
        view[:have] = rest[:have]
        rest = rest[have:]
        while have < part:
            got = connection.socket.recv_into(view[have:part], 0, socket.MSG_WAITALL)
            if got == 0:
                raise EOFError("the reply is short")
            have += got
        os.pwritev(file, [view[:part]], at)


def extents_of(path, length):
    """Of a local file: start, length, whether there is data."""
    file = os.open(path, os.O_RDONLY)
    at = 0
    while at < length:
        try:
            data = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            data = length
        if data > at:
            yield at, data - at, False
        if data == length:
            return
        at = os.lseek(file, data, os.SEEK_HOLE)
        yield data, at - data, True


def pieces(kind, path, length):
    parts = extents_of(path, length) if kind == "holes" else [(0, length, True)]
    for start, size, data in parts:
        for at in range(start, start + size, PIECE):
            yield at, min(PIECE, start + size - at), data


def transfer(kind, connection, number, clients, length, path):
    writes = kind == "get"
    file = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_DIRECT)
    buffer = mmap.mmap(-1, BUFFER)
    for index, (start, size, data) in enumerate(pieces(kind, path, length)):
        # Data and holes take turns: each client gets both.
        turn = index // 2 if kind == "holes" else index
        if turn % clients != number:
            continue
        if writes:
            get_piece(connection, file, buffer, start, size)
        elif data:
            put_piece(connection, file, buffer, start, size)
        else:
            connection.patch({"op": "zero", "offset": start, "size": size, "flush": False})
    if writes:
        os.fsync(file)
    else:
        connection.patch({"op": "flush"})
    return 0


def small(kind, connection, number, length, seconds):
    places = random.Random(number)
    body = bytes(range(256)) * (SMALL // 256)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        at = places.randrange(length // SMALL) * SMALL
        if kind == "small-put":
            headers = f"content-range: bytes {at}-{at + SMALL - 1}/*\r\ncontent-length: {SMALL}\r\n"
            connection.ask("PUT", headers, body, "?flush=n")
            connection.done()
        else:
            connection.ask("GET", f"range: bytes={at}-{at + SMALL - 1}\r\n")
            _, rest = connection.head()
            missing = SMALL - len(rest)
            while missing > 0:
                missing -= len(connection.socket.recv(missing))
        count += 1
    return count


def client(kind, port, path, number, clients, length, last):
    connection = Connection(port, path)
    if kind.startswith("small"):
        return small(kind, connection, number, length, float(last))
    return transfer(kind, connection, number, clients, length, last)


def forked(work, clients):
    """@returns the sum of what they return"""
    ends = []
    for number in range(clients):
        out, into = os.pipe()
        if os.fork() == 0:
            status = 1
            try:
                os.write(into, str(work(number)).encode())
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(into)
        ends.append(out)
    for _ in ends:
        _, status = os.wait()
        if status != 0:
            raise SystemExit("a client failed")
    return sum(int(os.read(out, 64)) for out in ends)


def extents(port, path):
    connection = Connection(port, path + "/extents")
    started = time.monotonic()
    connection.ask("GET", "connection: close\r\n")
    data = connection.socket.recv(1)
    first = time.monotonic() - started
    while True:
        more = connection.socket.recv(1 << 20)
        if not more:
            break
        data += more
    return {"first": first, "seconds": time.monotonic() - started, "extents": data.count(b'"start"')}


def main():
    kind, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    started = time.monotonic()
    if kind == "extents":
        print(json.dumps(extents(port, path)))
        return
    if kind == "zero":
        connection = Connection(port, path)
        # As clients begin; it opens the image.
        connection.ask("OPTIONS", "")
        connection.head()
        size = int(sys.argv[4])
        started = time.monotonic()
        connection.patch({"op": "zero", "offset": 0, "size": size, "flush": True})
        print(json.dumps({"seconds": time.monotonic() - started, "cpu": 0}))
        return
    clients, length, last = int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
    count = forked(lambda number: client(kind, port, path, number, clients, length, last), clients)
    seconds = time.monotonic() - started
    cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(json.dumps({"seconds": seconds, "cpu": cpu, "count": count}))


main()
