// SPDX-License-Identifier: Apache-2.0
// What an L2 entry means to a check: whatever its bits are, it has a meaning; what is wrong with it is told apart.
// The codec of protocol/qcow2 refuses such entries, which is right for everybody else. Pure.

import { parseL2Entry } from '../../../../../../protocol/qcow2/entries.js'

const HIGH = 2 ** 32

export type CheckedEntry =
  | { readonly kind: 'unallocated' | 'zero' }
  | {
      readonly kind: 'compressed'
      readonly copied: boolean
      readonly offset: number
      readonly length: number
    }
  /** `preallocated`: it reads as zero whatever lies there. */
  | {
      readonly kind: 'cluster'
      readonly copied: boolean
      readonly offset: number
      readonly preallocated: boolean
    }

/** How the entries of an image are laid out. */
export interface EntryLayout {
  readonly clusterBits: number
  readonly extended: boolean
  readonly dataFile: boolean
}

const UNALLOCATED: CheckedEntry = { kind: 'unallocated' }
const ZERO: CheckedEntry = { kind: 'zero' }

export function checkedEntry(view: DataView, at: number, layout: EntryLayout): CheckedEntry {
  const high = view.getUint32(at)
  const low = view.getUint32(at + 4)
  const copied = high >= 0x8000_0000
  if ((high & 0x4000_0000) !== 0) {
    const entry = parseL2Entry(view, at, layout.clusterBits, layout.extended)
    if (entry.kind === 'compressed')
      return { kind: 'compressed', copied, offset: entry.offset, length: entry.length }
  }
  const offset = (high & 0x00ff_ffff) * HIGH + ((low & 0xffff_fe00) >>> 0)
  const zero = !layout.extended && (low & 1) !== 0
  // The beginning of a data file is a place, but not to one that reads as zero, as with QEMU.
  if (offset === 0 && (zero || !(layout.dataFile && copied))) return zero ? ZERO : UNALLOCATED
  const preallocated = layout.extended ? view.getUint32(at + 12) === 0 : zero
  return { kind: 'cluster', copied, offset, preallocated }
}

/** Bits of a standard entry that must be clear. */
export function hasReservedBits(view: DataView, at: number): boolean {
  return (view.getUint32(at) & 0x3f00_0000) !== 0 || (view.getUint32(at + 4) & 0x1fe) !== 0
}

/** A subcluster is said to be allocated and zero at once. Extended entries only. */
export function contradicts(view: DataView, at: number): boolean {
  return (view.getUint32(at + 8) & view.getUint32(at + 12)) !== 0
}

/** The entry becomes one that reads as zero and lies nowhere. */
export function makeZero(view: DataView, at: number, extended: boolean): void {
  view.setUint32(at, 0)
  view.setUint32(at + 4, extended ? 0 : 1)
  if (!extended) return
  view.setUint32(at + 8, 0xffff_ffff)
  view.setUint32(at + 12, 0)
}

export function setCopied(view: DataView, at: number, copied: boolean): void {
  const high = view.getUint32(at) & 0x7fff_ffff
  view.setUint32(at, (copied ? high | 0x8000_0000 : high) >>> 0)
}
