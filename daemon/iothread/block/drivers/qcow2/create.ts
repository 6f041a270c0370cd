// SPDX-License-Identifier: Apache-2.0
// Makes a qcow2 image in an open node. Used by create jobs, and for the target of drive-mirror.
// Order: room, data, tables, a flush, and the header last: whenever this ends before its end, what it leaves is no
// qcow2 image.

import { getUint64, setUint64, viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { formatL1Entry, formatL2Entry, type L2Entry } from '../../../../../protocol/qcow2/entries.js'
import { setRefcount } from '../../../../../protocol/qcow2/refcount-block.js'
import { ENOSPC, errnoText } from '../../../../common/errno.js'
import { Cancelled, CommandError, IoError } from '../../../../errors.js'
import type { Qcow2Options } from '../../../messages.js'
import type { BlockNode } from '../../node.js'
import { preallocate } from '../../preallocate.js'
import { type Area, checkOptions, isPreallocated, type Layout, planLayout } from './layout.js'
import { newHeader } from './new-header.js'

/** Tables are written up to a multiple of this; beyond that they read as zero without taking storage. Bytes. */
const PAGE = 4096

/** Where slots of the engine come from. */
export interface SlotSource {
  readonly slotSize: number
  acquire(): Promise<number>
  give(slot: number): void
  /** The bytes of a slot. */
  bytes(slot: number): Uint8Array
}

export interface NewImage {
  /** Claimed for writing and resizing; what it holds is lost. */
  readonly file: BlockNode
  /** External data file, claimed alike. */
  readonly dataFile: BlockNode | undefined
  readonly options: Qcow2Options
  readonly slots: SlotSource
  readonly signal: AbortSignal
}

/**
 * Durable on return.
 * @throws CommandError for what is refused (nothing is changed then) and for what storage refuses; Cancelled
 */
export async function createQcow2(image: NewImage): Promise<void> {
  const { file, dataFile, options, slots } = image
  checkOptions(options, dataFile !== undefined)
  const layout = planLayout(options, dataFile !== undefined)
  const header = newHeader(options, layout, dataFile !== undefined)
  const slot = await slots.acquire()
  try {
    const writer = new ImageWriter(image, layout, slot)
    await told('Could not resize image', () => writer.makeRoom())
    await told('Could not preallocate', () => writer.preallocate())
    await told('Could not write qcow2 tables', () => writer.writeTables())
    await told('Could not flush data file', async () => dataFile?.flush())
    await told('Could not flush qcow2 tables', () => file.flush())
    await told('Could not write qcow2 header', () => writer.write(0, header))
    await told('Could not flush qcow2 header', () => file.flush())
  } finally {
    slots.give(slot)
  }
}

/** Whole pages from an offset inside an area on: fills the bytes, which are zero before. */
type Render = (view: DataView, offset: number) => void

class ImageWriter {
  readonly #image: NewImage
  readonly #layout: Layout
  readonly #slot: number
  /** The node reads as zero where nothing was written yet. */
  #blank = false

  constructor(image: NewImage, layout: Layout, slot: number) {
    this.#image = image
    this.#layout = layout
    this.#slot = slot
  }

  /** Gives the file its length, empty; on a device the old image goes first. */
  async makeRoom(): Promise<void> {
    const { file, options } = this.#image
    const { end, data } = this.#layout
    if (file.driver.can.resize) {
      await file.resize(0, { noCow: options.noCow === true })
      await file.resize(end)
      this.#blank = true
    } else {
      if (file.length() < end) throw new IoError(ENOSPC, 'resize', file.name, 0, end)
      await file.zero(0, data.offset, { unmap: true, fast: false })
    }
    await file.flush()
  }

  async preallocate(): Promise<void> {
    const { file, dataFile, options } = this.#image
    if (dataFile === undefined) return this.#preallocate(file, this.#layout.data, this.#blank)
    if (options.dataFileCleared) await this.#clear(dataFile)
    const before = dataFile.length()
    if (before < options.size) await dataFile.resize(options.size)
    // What a raw data file holds already is the disk's content; of another one it must not show through.
    const offset = options.dataFileRaw ? Math.min(before, options.size) : 0
    if (isPreallocated(options)) {
      await this.#preallocate(dataFile, { offset, length: options.size - offset }, options.dataFileRaw)
    }
  }

  /** A device and an export keep their length. */
  async #clear(dataFile: BlockNode): Promise<void> {
    const { noCow = false } = this.#image.options
    if (dataFile.driver.can.resize) await dataFile.resize(0, { noCow })
    else await dataFile.zero(0, dataFile.length(), { unmap: true, fast: false })
  }

  async writeTables(): Promise<void> {
    const { refcountTable, refcountBlocks, l1, l2, clusterSize, end } = this.#layout
    const tableUsed = (refcountBlocks.length / clusterSize) * 8
    await this.#table(refcountTable, 8, tableUsed, (view, at, index) =>
      setUint64(view, at, refcountBlocks.offset + index * clusterSize),
    )
    await this.#refcounts(refcountBlocks, end / clusterSize)
    if (l2.length === 0) return
    await this.#table(l1, 8, this.#layout.l1Size * 8, (view, at, index) =>
      formatL1Entry(view, at, { offset: l2.offset + index * clusterSize, copied: true }),
    )
    await this.#l2Tables()
  }

  /** Writes bytes at the front of a slot, in whole pages. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const used = bytes.length - trailingZeroes(bytes)
    await this.#fill({ offset, length: bytes.length }, used, (view, at) => {
      const part = bytes.subarray(at, at + view.byteLength)
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(part)
    })
  }

  /** @param blank  the area reads as zero already */
  async #preallocate(node: BlockNode, area: Area, blank: boolean): Promise<void> {
    if (area.length === 0) return
    const { options, slots } = this.#image
    slots.bytes(this.#slot).fill(0)
    const how = {
      mode: options.preallocation === 'off' ? 'metadata' : options.preallocation,
      zeroes: { slot: this.#slot, offset: 0, length: slots.slotSize },
      step: async () => this.#checkCancelled(),
    } as const
    await preallocate(node, area.offset, area.length, how, blank)
  }

  /** Refcount 1 for the first `clusters` clusters: all there are. */
  async #refcounts(area: Area, clusters: number): Promise<void> {
    const order = this.#layout.refcountOrder
    const bits = 2 ** order
    await this.#fill(area, Math.ceil((clusters * bits) / 8), (view, offset) => {
      const first = (offset * 8) / bits
      const count = Math.min((view.byteLength * 8) / bits, clusters - first)
      for (let index = 0; index < count; index++) setRefcount(view, index, order, 1)
    })
  }

  /** One L2 table after the other, every cluster of the disk at its place in the data area. */
  async #l2Tables(): Promise<void> {
    const { l2, l2EntrySize, data, dataClusters, clusterSize } = this.#layout
    const { dataFile, options } = this.#image
    const base = dataFile === undefined ? data.offset : 0
    // Subclusters are allocated by the first write, so that a backing file shows; a raw data file shows as it is.
    const allocated = options.dataFileRaw ? 0xffff_ffff : 0
    const entry = { kind: 'standard', copied: true, zero: false } as const
    const subclusters = options.extendedL2 ? { allocated, zero: 0 } : undefined
    const bits = Math.log2(clusterSize)
    await this.#table(l2, l2EntrySize, dataClusters * l2EntrySize, (view, at, index) => {
      const found: L2Entry = { ...entry, offset: base + index * clusterSize, subclusters }
      formatL2Entry(view, at, found, bits, options.extendedL2)
    })
  }

  /** @param used  bytes of the table that hold entries */
  async #table(
    area: Area,
    entrySize: number,
    used: number,
    format: (view: DataView, at: number, index: number) => void,
  ): Promise<void> {
    await this.#fill(area, used, (view, offset) => {
      const end = Math.min(view.byteLength, used - offset)
      for (let at = 0; at < end; at += entrySize) format(view, at, (offset + at) / entrySize)
    })
  }

  /** Writes the used front of an area, slot by slot. */
  async #fill(area: Area, used: number, render: Render): Promise<void> {
    const { file, slots } = this.#image
    const length = Math.min(Math.ceil(used / PAGE) * PAGE, area.length)
    for (let at = 0; at < length; at += slots.slotSize) {
      this.#checkCancelled()
      const part = slots
        .bytes(this.#slot)
        .subarray(0, Math.min(slots.slotSize, length - at))
        .fill(0)
      render(viewOf(part), at)
      await file.write(area.offset + at, { slot: this.#slot, offset: 0, length: part.length })
    }
  }

  #checkCancelled(): void {
    if (this.#image.signal.aborted) throw new Cancelled()
  }
}

function trailingZeroes(bytes: Uint8Array): number {
  let count = 0
  const view = viewOf(bytes)
  while (count < bytes.length && getUint64(view, bytes.length - count - 8) === 0) count += 8
  return count
}

/** Says what storage refused. */
async function told(text: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (cause) {
    if (!(cause instanceof IoError)) throw cause
    throw new CommandError(`${text}: ${errnoText(cause.errno)}`, 'GenericError', { cause })
  }
}
