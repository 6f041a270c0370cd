// SPDX-License-Identifier: Apache-2.0
// Storage for what is to be written one day: reserved, or written as zeroes, piece by piece, so that it can be ended between
// two of them. Used where new images are made, and by drivers whose disks grow.

import type { Slice, WriteHow, ZeroHow } from './driver.js'

/** Bytes reserved in one call, so that a large image can be cancelled. */
const RESERVE = 2 ** 30
/** Writes of zeroes at once. */
const ZERO_WRITES = 4

export interface Preallocate {
  /** metadata: places in the tables of the format; falloc: and their storage is reserved; full: or written. */
  readonly mode: 'metadata' | 'falloc' | 'full'
  /** Reads as zero, and nobody writes it meanwhile. */
  readonly zeroes: Slice
  /** Awaited before each piece of so many bytes; what it throws ends the work. */
  step(bytes: number): Promise<void>
}

/** A node, or a driver. */
interface Room {
  zero(offset: number, length: number, how: ZeroHow): Promise<void>
  write(offset: number, from: Slice, how: WriteHow): Promise<void>
}

/**
 * Makes a range read as zero, with the storage behind it that the mode asks for.
 * @param blank  it reads as zero already
 */
export async function preallocate(
  room: Room,
  offset: number,
  length: number,
  how: Preallocate,
  blank: boolean,
): Promise<void> {
  if (how.mode === 'full') return writeZeroes(room, offset, length, how)
  const reserve = how.mode === 'falloc'
  if (blank && !reserve) return how.step(length)
  for (let at = 0; at < length; at += RESERVE) {
    const piece = Math.min(RESERVE, length - at)
    await how.step(piece)
    await room.zero(offset + at, piece, { unmap: !reserve, fast: false })
  }
}

/** Every block really written, so that later writes change no metadata of the file system. */
async function writeZeroes(
  room: Room,
  offset: number,
  length: number,
  { zeroes, step }: Preallocate,
): Promise<void> {
  const turn = zeroes.length * ZERO_WRITES
  for (let at = 0; at < length; at += turn) {
    const end = Math.min(at + turn, length)
    await step(end - at)
    const writes: Promise<void>[] = []
    for (let from = at; from < end; from += zeroes.length) {
      const slice = { ...zeroes, length: Math.min(zeroes.length, end - from) }
      writes.push(room.write(offset + from, slice, {}))
    }
    const ends = await Promise.allSettled(writes)
    for (const one of ends) if (one.status === 'rejected') throw one.reason
  }
}
