// SPDX-License-Identifier: Apache-2.0
// Reads a table of internal snapshots entry by entry, in bounded pieces, whatever lengths its entries claim. Used by
// snapshot-table.ts.

import { FormatError } from '../../../../../../protocol/format-error.js'
import {
  MAX_EXTRA,
  outlineSnapshot,
  parseSnapshot,
  type SnapshotEntry,
  shortenSnapshot,
} from '../../../../../../protocol/qcow2/snapshots.js'
import type { Checked } from './image.js'

/** Bytes; an entry without too much extra data is shorter than half of it: its strings have lengths of 16 bits. */
const WINDOW = 512 * 1024

/** An entry, and the bytes it was read from. */
export interface ReadEntry extends SnapshotEntry {
  readonly bytes: Uint8Array
  /** Where it begins in them; `next` is where it ends. */
  readonly from: number
  /** Bytes of extra data in the table; of those above the limit `bytes` have no more than that. */
  readonly extraThere: number
}

export class SnapshotEntries {
  readonly #checked: Checked
  /** Host offset of the next entry. */
  #at: number
  #window: Uint8Array = new Uint8Array(0)
  #windowAt = 0
  #index = 0

  constructor(checked: Checked) {
    this.#checked = checked
    this.#at = checked.header.snapshotsOffset
  }

  get at(): number {
    return this.#at
  }
  /** Of the next entry. */
  get index(): number {
    return this.#index
  }

  /**
   * @param shortens  extra data above the limit is passed over
   * @throws FormatError for what is no entry
   */
  async next(shortens: boolean): Promise<ReadEntry> {
    const { bytes } = this.#checked
    if (bytes.tired) await bytes.rest()
    if (this.#window.length === 0 || this.#at - this.#windowAt > WINDOW / 2) {
      this.#windowAt = this.#at
      this.#window = await bytes.read(this.#at, WINDOW)
    }
    const from = this.#at - this.#windowAt
    const outline = outlineSnapshot(this.#window, from)
    const tooLong = outline.extra > MAX_EXTRA && shortens
    const short = tooLong ? await this.#shortened(from) : undefined
    const [where, at] = short === undefined ? [this.#window, from] : [short, 0]
    const found = parseSnapshot(where, at, this.#index)
    if (found === undefined) throw new FormatError('Snapshot table is too big')
    this.#at += outline.next
    this.#index += 1
    return { ...found, bytes: where, from: at, extraThere: outline.extra }
  }

  async #shortened(from: number): Promise<Uint8Array> {
    const { bytes, clusterSize } = this.#checked
    const { stringsAt, stringsLength, next } = outlineSnapshot(this.#window, from)
    // What ends behind the file says nothing of where the next one begins.
    if (this.#at + next - bytes.length >= clusterSize)
      throw new FormatError(`Too much extra metadata in snapshot table entry ${this.#index}`)
    return shortenSnapshot(this.#window, from, await bytes.read(this.#at + stringsAt, stringsLength))
  }
}
