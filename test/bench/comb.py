# SPDX-License-Identifier: Apache-2.0
"""Fills a file system's free space with one file and gives every second 64 KiB of it back: comb.py FILE SIZE"""
import ctypes
import os
import sys

KEEP_SIZE, PUNCH_HOLE = 1, 2
STEP = 64 * 1024

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


path, size = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
fallocate(fd, 0, 0, size)
# What is left beside the filler is taken too, so that the next file finds nothing but gaps.
rest = os.open(path + ".rest", os.O_RDWR | os.O_CREAT, 0o600)
left = os.statvfs(path)
if left.f_bavail * left.f_frsize > 64 * STEP:
    fallocate(rest, 0, 0, left.f_bavail * left.f_frsize - 64 * STEP)
for offset in range(0, size, 2 * STEP):
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, offset, STEP)
os.fsync(fd)
