# SPDX-License-Identifier: Apache-2.0
"""What the kernel's own way to zero costs, its fsync included: zero-range.py punch|zero|blkzeroout FILE SIZE. Prints seconds."""
import ctypes
import fcntl
import os
import struct
import sys
import time

MODES = {"punch": 1 | 2, "zero": 16}
BLKZEROOUT = 0x127F

how, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
file = os.open(path, os.O_RDWR)
started = time.monotonic()
if how == "blkzeroout":
    fcntl.ioctl(file, BLKZEROOUT, struct.pack("QQ", 0, size))
elif libc.fallocate(file, MODES[how], 0, size):
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error))
os.fsync(file)
print(time.monotonic() - started)
