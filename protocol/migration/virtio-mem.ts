// SPDX-License-Identifier: Apache-2.0
// The early section of a virtio-mem device: which parts of its memory are plugged. It has to reach a destination before
// the first page does, so it is kept at its place. Source: vmstate_virtio_mem_device_early in QEMU 10.0,
// hw/virtio/virtio-mem.c.
//
//   be64 address | be64 region size | be64 block size | be32 node | be64 plugged size | bitmap, be64 words

import { type Parsed, parsePrefix, type Reader } from './bytes.js'

/** Bits of 2 MiB for 256 TiB. */
const MAX_BITS = 2 ** 27

export interface VirtioMemEarly {
  /** Guest-physical. */
  readonly address: number
  /** Bytes of the region, of one block, and of all that is plugged. */
  readonly regionSize: number
  readonly blockSize: number
  readonly node: number
  readonly pluggedSize: number
}

/** @throws FormatError */
export function parseVirtioMemEarly(bytes: Uint8Array, origin = 0): Parsed<VirtioMemEarly> | undefined {
  return parsePrefix(bytes, origin, readVirtioMemEarly)
}

/** parseVirtioMemEarly() within a larger parser. */
export function readVirtioMemEarly(reader: Reader): VirtioMemEarly {
  const address = reader.u64('address of virtio-mem')
  const regionSize = reader.u64('region size of virtio-mem')
  const blockSize = reader.u64('block size of virtio-mem')
  const bits = regionSize / blockSize
  if (!Number.isInteger(Math.log2(blockSize)) || !Number.isInteger(bits) || bits > MAX_BITS)
    throw reader.wrong('block size of virtio-mem', blockSize, `a power of two that divides ${regionSize}`)
  const node = reader.u32()
  const pluggedSize = reader.u64('plugged size of virtio-mem')
  if (pluggedSize > regionSize)
    throw reader.wrong('plugged size of virtio-mem', pluggedSize, `at most ${regionSize}`)
  reader.take(Math.ceil(bits / 64) * 8)
  return { address, regionSize, blockSize, node, pluggedSize }
}
