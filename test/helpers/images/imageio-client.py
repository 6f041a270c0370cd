# SPDX-License-Identifier: Apache-2.0
# What the client library of oVirt does with an image server: one thing at a time, told by the command line. PYTHONPATH
# names the library.
#
#   imageio-client.py upload FILE URL | download URL FILE FORMAT [incremental BACKING] | steps URL SIZE | extents URL CONTEXT
#   imageio-client.py checksum FILE ALGORITHM BLOCK_SIZE
#
# Prints JSON: what there is to tell.

import json
import os
import sys

from ovirt_imageio import client

CA = None


def upload(file, url):
    client.upload(file, url, CA)


def download(url, file, fmt, incremental=None, backing=None):
    more = {} if backing is None else {"backing_file": backing, "backing_format": "qcow2"}
    client.download(url, file, CA, fmt=fmt, incremental=incremental is not None, **more)


def steps(url, size):
    """Each request of the library, on one connection."""
    size = int(size)
    with client.ImageioClient(url, CA) as c:
        told = {"size": c.size(), "readers": c.max_readers, "writers": c.max_writers}
        c.write(4096, b"a" * 8192)
        c.write(100, b"b" * 10)
        c.zero(8192, 4096)
        c.write(size - 3, b"end")
        c.flush()
        image = bytearray(size)
        c.read(0, image)
        expected = bytearray(size)
        expected[4096:12288] = b"a" * 8192
        expected[100:110] = b"b" * 10
        expected[8192:12288] = bytes(4096)
        expected[size - 3 :] = b"end"
        told["equal"] = image == expected
        part = bytearray(3)
        c.read(size - 3, part)
        told["after"] = part.decode()
        return told


def extents(url, context):
    with client.ImageioClient(url, CA) as c:
        return [extent.to_dict() for extent in c.extents(context)]


def checksum(file, algorithm, block_size):
    return client.checksum(file, algorithm=algorithm, block_size=int(block_size))


work = {"upload": upload, "download": download, "steps": steps, "extents": extents, "checksum": checksum}
print(json.dumps(work[sys.argv[1]](*sys.argv[2:])))
sys.stdout.flush()
# The library leaves threads behind when something went wrong.
os._exit(0)
