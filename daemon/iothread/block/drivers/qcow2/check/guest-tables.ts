// SPDX-License-Identifier: Apache-2.0
// Counts what the L1 tables, of the active disk and of snapshots, and their L2 tables refer to, and says what is wrong with
// their entries. Used by check.ts.

import { viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { parseL1Entry } from '../../../../../../protocol/qcow2/entries.js'
import { type Checked, countRange, hex, rawHex } from './image.js'
import {
  type CheckedEntry,
  checkedEntry,
  contradicts,
  type EntryLayout,
  hasReservedBits,
  makeZero,
} from './l2-entry.js'

export interface L1Table {
  readonly offset: number
  /** Entries. */
  readonly size: number
  /** The one the guest sees: fragmentation is counted for it. */
  readonly active: boolean
}

/**
 * Host offsets of L2 tables that were looked at and have no flaw, with how often each was named again since: what such a
 * table refers to is counted at the end, by countAgain(). Many snapshots share most of their tables.
 */
export type SoundTables = Map<number, number>

/** Tables beyond are looked at whenever they are named. */
const MOST_SOUND = 1 << 18

/** @param protects  whether a cluster belongs to other metadata, and must not be written as an L2 table */
export async function countTables(
  checked: Checked,
  table: L1Table,
  sound: SoundTables,
  protects: (offset: number) => boolean,
): Promise<void> {
  if (table.size === 0) return
  const { bytes, clusterSize, findings } = checked
  countRange(checked, table.offset, table.size * 8)
  const view = viewOf(await bytes.read(table.offset, table.size * 8))
  for (let at = 0; at < view.byteLength; at += 8) {
    if (bytes.tired) await bytes.rest()
    if (view.getUint32(at) === 0 && view.getUint32(at + 4) === 0) continue
    const { offset, reserved } = parseL1Entry(view, at)
    if (reserved) findings.corruption(`ERROR found L1 entry with reserved bits set: ${rawHex(view, at)}`)
    countRange(checked, offset, clusterSize)
    if (offset % clusterSize !== 0)
      findings.corruption(`ERROR l2_offset=${hex(offset)}: Table is not cluster aligned; L1 entry corrupted`)
    const again = table.active ? undefined : sound.get(offset)
    if (again !== undefined) {
      sound.set(offset, again + 1)
      continue
    }
    const isProtected = checked.repair === 'all' && protects(offset)
    const { told } = findings
    await new L2Walk(checked, offset, table.active, isProtected).run()
    if (findings.told === told && sound.size < MOST_SOUND) sound.set(offset, 0)
  }
}

/** What tables refer to that were named more than once. */
export async function countAgain(checked: Checked, sound: SoundTables): Promise<void> {
  for (const [offset, times] of sound)
    if (times > 0) await new L2Walk(checked, offset, false, true, times).run()
}

/** One L2 table. */
class L2Walk {
  readonly #checked: Checked
  readonly #offset: number
  readonly #active: boolean
  readonly #protected: boolean
  /** How often what it refers to is counted. */
  readonly #times: number
  readonly #layout: EntryLayout
  /** Where the next cluster would lie if the disk were contiguous; 0: none yet. */
  #next = 0

  constructor(checked: Checked, offset: number, active: boolean, isProtected: boolean, times = 1) {
    this.#times = times
    this.#checked = checked
    this.#offset = offset
    this.#active = active
    this.#protected = isProtected
    const { header, extended, dataFile } = checked
    this.#layout = { clusterBits: header.clusterBits, extended, dataFile }
  }

  async run(): Promise<void> {
    const { bytes, clusterSize, extended, findings } = this.#checked
    const view = viewOf(await bytes.read(this.#offset, clusterSize))
    const step = extended ? 16 : 8
    for (let at = 0; at < clusterSize; at += step) {
      if (at % 8192 === 0 && bytes.tired) await bytes.rest()
      if (view.getUint32(at) === 0 && view.getUint32(at + 4) === 0 && !extended) continue
      const entry = checkedEntry(view, at, this.#layout)
      if (entry.kind !== 'compressed' && hasReservedBits(view, at))
        findings.corruption(`ERROR found l2 entry with reserved bits set: ${rawHex(view, at)}`)
      if (entry.kind === 'compressed') this.#compressed(view, at, entry)
      else if (entry.kind === 'cluster') await this.#cluster(view, at, entry)
      else if (extended && view.getUint32(at + 12) !== 0)
        findings.corruption('ERROR: Unallocated cluster has non-zero subcluster allocation map')
    }
  }

  #compressed(view: DataView, at: number, entry: Extract<CheckedEntry, { kind: 'compressed' }>): void {
    const { findings, dataFile, extended } = this.#checked
    if (entry.copied)
      findings.corruption(
        `ERROR: coffset=0x${hex(entry.offset)}: copied flag must never be set for compressed clusters`,
      )
    const index = at / (extended ? 16 : 8)
    if (dataFile) {
      findings.corruption(`ERROR compressed cluster ${index} with data file, entry=0x${rawHex(view, at)}`)
      return
    }
    if (extended && (view.getUint32(at + 8) !== 0 || view.getUint32(at + 12) !== 0)) {
      findings.corruption(
        `ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, entry=0x${rawHex(view, at)}`,
      )
      return
    }
    countRange(this.#checked, entry.offset, entry.length, this.#times)
    if (!this.#active) return
    findings.allocatedClusters += 1
    findings.compressedClusters += 1
    // Each is read for itself, so it counts as a fragment.
    findings.fragmentedClusters += 1
  }

  async #cluster(
    view: DataView,
    at: number,
    entry: Extract<CheckedEntry, { kind: 'cluster' }>,
  ): Promise<void> {
    const { clusterSize, extended, findings, dataFile } = this.#checked
    const { offset } = entry
    if (extended && contradicts(view, at))
      findings.corruption(
        `ERROR offset=${hex(offset)}: Allocated cluster has corrupted subcluster allocation bitmap`,
      )
    if (this.#active) {
      findings.allocatedClusters += 1
      if (this.#next !== 0 && offset !== this.#next) findings.fragmentedClusters += 1
      this.#next = offset + clusterSize
    }
    if (offset % clusterSize !== 0) {
      if (entry.preallocated) {
        const mended = await this.#mend(view, at)
        const line = `offset=${hex(offset)}: Preallocated cluster is not properly aligned; L2 entry corrupted.`
        if (mended) findings.say(`Repairing ${line}`)
        else findings.corruption(`ERROR ${line}`)
        if (mended) return
      } else {
        findings.corruption(
          `ERROR offset=${hex(offset)}: Data cluster is not properly aligned; L2 entry corrupted.`,
        )
      }
    }
    if (!dataFile) countRange(this.#checked, offset, clusterSize, this.#times)
  }

  /** Makes the entry one that reads as zero, where that is asked for and harms nothing else. @returns whether it did */
  async #mend(view: DataView, at: number): Promise<boolean> {
    const { repair, extended, findings, bytes } = this.#checked
    if (repair !== 'all' || this.#protected) return false
    makeZero(view, at, extended)
    await bytes.write(this.#offset + at, new Uint8Array(view.buffer, view.byteOffset + at, extended ? 16 : 8))
    findings.corruptionsFixed += 1
    return true
  }
}
