// SPDX-License-Identifier: Apache-2.0
// How the words of the engine's verbs are told to the addon: as numbers, bits and lists. Used by engine.ts.

import type { Capability, Codec, OpenFlags, SlotRanges } from './types.js'

/** Same order as Can in src/file.h. */
const capabilities: readonly Capability[] = [
  'zero-range',
  'punch-hole',
  'fallocate',
  'blkzeroout',
  'blkdiscard',
  'nowait',
  'copy-range',
  'reflink',
  'map',
]

/** Same order as Codec in src/request.h. */
export const codecs: readonly Codec[] = ['zlib', 'zstd']

/** Same bits as in src/request.h. */
const OpenBit = { write: 1, direct: 2, create: 4, exclusive: 8, truncate: 16, directory: 32 } as const
export const TruncateBit = { allocate: 1, noCow: 2 } as const
export const lockBits = { unlock: 0, write: 1, read: 2 } as const

export function openBits(flags: OpenFlags): number {
  let bits = 0
  for (const [name, bit] of Object.entries(OpenBit)) {
    if (flags[name as keyof typeof OpenBit] === true) bits |= bit
  }
  return bits
}

/** Capabilities that a file is to do without. */
export function withoutBits(flags: OpenFlags): number {
  let bits = 0
  for (const name of flags.without ?? []) bits |= 1 << capabilities.indexOf(name)
  return bits
}

/** `[slot, offset, length, …]`. */
export function places(ranges: SlotRanges): number[] {
  const list = 'slot' in ranges ? [ranges] : ranges
  return list.flatMap(({ slot, offset, length }) => [slot, offset, length])
}

/** The engine's tasks are another process to the kernel: names that mean "mine" are spelt out. */
export function ourPath(path: string): string {
  return path.replace(/^\/(?:proc\/self|dev(?=\/fd\/))\//, `/proc/${process.pid}/`)
}
