# SPDX-License-Identifier: Apache-2.0
"""Exit 0 when two files read the same: compare.py ONE OTHER. Ranges that are holes in both are not read."""
import os
import sys

CHUNK = 4 << 20


def data_ranges(fd, size):
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
        offset = end


def merged(one, other):
    last_start = last_end = None
    for start, end in sorted(list(one) + list(other)):
        if last_end is not None and start <= last_end:
            last_end = max(last_end, end)
            continue
        if last_end is not None:
            yield last_start, last_end
        last_start, last_end = start, end
    if last_end is not None:
        yield last_start, last_end


def main(one, other):
    fds = [os.open(path, os.O_RDONLY) for path in (one, other)]
    sizes = [os.fstat(fd).st_size for fd in fds]
    if sizes[0] != sizes[1]:
        sys.exit("sizes are %d and %d" % tuple(sizes))
    for start, end in merged(*(data_ranges(fd, sizes[0]) for fd in fds)):
        for offset in range(start, end, CHUNK):
            length = min(CHUNK, end - offset)
            if os.pread(fds[0], length, offset) != os.pread(fds[1], length, offset):
                sys.exit("first difference within %d bytes of offset %d" % (length, offset))


main(sys.argv[1], sys.argv[2])
