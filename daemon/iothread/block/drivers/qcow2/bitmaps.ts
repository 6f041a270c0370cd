// SPDX-License-Identifier: Apache-2.0
// Persistent bitmaps of an image: loaded into the node's when it is opened, stored when the last user has left. One
// whose content in memory is to count is held: marked in use on the disk before that. Used by the qcow2 map.
//
//   mark in use ─ flush ─ changes … ─ bits and tables to new clusters ─ refcounts ─ new directory ─ flush ─ header ─ flush
//
// A crash before the header leaves those that were held in use: nobody trusts them then. What follows writes ("auto")
// is held from the first of them; what does not is left alone unless somebody changes it.

import { FormatError } from '../../../../../protocol/format-error.js'
import {
  formatBitmapDirectory,
  formatBitmapsExtension,
  type StoredBitmap,
} from '../../../../../protocol/qcow2/bitmaps.js'
import {
  Autoclear,
  type Extension,
  ExtensionType,
  formatHeader,
  type Header,
} from '../../../../../protocol/qcow2/header.js'
import { CommandError, IoError } from '../../../../errors.js'
import type { BitmapState } from '../../bitmaps/named-bitmap.js'
import type { NodeBitmaps } from '../../bitmaps/node-bitmaps.js'
import { DirtyBitmap } from '../../dirty-bitmap.js'
import { SECTOR } from '../../node.js'
import { type BitsParts, freeBits, readBits, type Taken, writeBits } from './bitmap-bits.js'
import { checkNewBitmap, loadBitmaps, type StoredBitmaps } from './bitmap-directory.js'
import type { Commit } from './commit.js'
import { roundUp } from './refcounts.js'
import { Turns } from './turn.js'

/** Memory for the bits of all bitmaps of an image, bytes. One that would need more cannot be used. */
const MOST_MEMORY = 256 << 20

export interface BitmapParts extends BitsParts {
  readonly commit: Commit
  /** Those of the image's node. */
  readonly bitmaps: NodeBitmaps
}

export class Bitmaps {
  readonly #parts: BitmapParts
  readonly #turns = new Turns()
  #stored: StoredBitmaps | undefined
  /** Names of those whose content is in memory only. */
  #held = new Set<string>()

  constructor(parts: BitmapParts) {
    this.#parts = parts
  }

  /** As they are marked on the disk. */
  get stored(): StoredBitmaps | undefined {
    return this.#stored
  }

  holds(name: string): boolean {
    return this.#held.has(name)
  }

  /** Knows what an earlier driver of the node knew. */
  use(stored: StoredBitmaps | undefined): void {
    this.#stored = stored
    this.#held = new Set()
  }

  /** Reads which there are. @throws CommandError when the directory is not sound */
  async loadDirectory(): Promise<void> {
    this.use(await loadBitmaps(this.#parts.image))
  }

  /** Reads their bits, into the node's bitmaps. */
  async loadBits(): Promise<void> {
    const states: BitmapState[] = []
    let memory = 0
    for (const stored of this.#stored?.list ?? []) {
      const bytes = stored.inUse ? 0 : this.#size() / 2 ** stored.granularityBits / 8
      states.push(await this.#loadOne(stored, memory + bytes <= MOST_MEMORY))
      memory += bytes
    }
    this.#parts.bitmaps.load(states)
  }

  /** @throws CommandError */
  checkNew(name: string, granularity: number): void {
    const { image } = this.#parts
    const list = [...(this.#stored?.list ?? []), newEntry(name, granularity)]
    checkNewBitmap(name, granularity, list, image)
    try {
      formatHeader({ ...image.header, extensions: this.#extensions(new Uint8Array(24)) })
    } catch (error) {
      if (error instanceof FormatError) throw new CommandError(error.message)
      throw error
    }
  }

  /** Before the first change of the image. */
  async begin(): Promise<void> {
    const following = (this.#stored?.list ?? []).filter(({ auto, inUse }) => auto && !inUse)
    await this.#turns.run(() => this.#hold(following.map(({ name }) => name)))
  }

  /** The image is prepared for changes. */
  hold(name: string): Promise<void> {
    return this.#turns.run(() => this.#hold([name]))
  }

  /** Before the size of the disk changes: what is stored is of the old size. @throws CommandError when it must not */
  async holdAll(): Promise<void> {
    const list = this.#stored?.list ?? []
    const unknown = list.find(({ name, inUse }) => inUse && !this.#held.has(name))
    if (unknown !== undefined)
      throw new CommandError(`Bitmap '${unknown.name}' is inconsistent and cannot be used`)
    await this.#turns.run(() => this.#hold(list.map(({ name }) => name)))
  }

  /** The image is prepared for changes. After a failure it is there as before. @throws CommandError as the peer has it */
  remove(name: string): Promise<void> {
    return this.#turns.run(async () => {
      const list = this.#stored?.list ?? []
      const gone = list.filter((stored) => stored.name === name)
      const left = list.filter((stored) => stored.name !== name)
      const taken: Taken = []
      try {
        if (gone.length > 0) await this.#replace(left, gone, taken)
      } catch (error) {
        await this.#giveBack(taken)
        if (!(error instanceof IoError)) throw error
        const text = `Failed to update bitmap extension: ${error.message}`
        throw new CommandError(text, 'GenericError', { cause: error })
      }
      this.#held.delete(name)
    })
  }

  /** No change is under way, nor comes before begin(). After a failure those that were held stay marked. */
  save(): Promise<void> {
    return this.#turns.run(async () => {
      if (this.#held.size === 0) return
      const old = this.#stored?.list ?? []
      const gone = old.filter(({ name }) => this.#held.has(name))
      const taken: Taken = []
      try {
        const fresh = new Map<string, StoredBitmap>()
        for (const { name, persistent, inconsistent } of this.#parts.bitmaps.all())
          if (persistent && !inconsistent && this.#held.has(name))
            fresh.set(name, await this.#write(name, taken))
        // Each stays in its place; new ones come last.
        const kept = old.flatMap((one) => (this.#held.has(one.name) ? (fresh.get(one.name) ?? []) : one))
        const added = [...fresh.values()].filter(({ name }) => !old.some((one) => one.name === name))
        await this.#replace([...kept, ...added], gone, taken)
      } catch (error) {
        await this.#giveBack(taken)
        throw error
      }
      this.#held = new Set()
    })
  }

  async #loadOne(stored: StoredBitmap, fits: boolean): Promise<BitmapState> {
    const { image } = this.#parts
    const { name, auto, inUse } = stored
    const granularity = 2 ** stored.granularityBits
    const nothing: BitmapState = {
      ...{ name, bits: new DirtyBitmap(0, granularity), recording: false },
      ...{ persistent: true, inconsistent: true },
    }
    if (inUse || !fits) return nothing
    try {
      const bits = await readBits(image, stored, this.#size())
      return { name, bits, recording: auto, persistent: true, inconsistent: false }
    } catch (error) {
      if (!(error instanceof FormatError)) throw error
      // It cannot be used; everything else of the image can.
      await image.corrupt('read', `${error.message} of bitmap '${name}'`, stored.tableOffset)
      return nothing
    }
  }

  /** Bytes of the disk in whole sectors, as its node counts. */
  #size(): number {
    return roundUp(this.#parts.image.header.size, SECTOR)
  }

  /** What is in use already is not marked again. Nothing is held whose content is not known. */
  async #hold(names: readonly string[]): Promise<void> {
    const list = this.#stored?.list ?? []
    const unmarked = list.filter(({ name, inUse }) => !inUse && names.includes(name))
    if (unmarked.length > 0) await this.#markInUse(new Set(unmarked))
    const unknown = new Set(
      list.filter(({ name, inUse }) => inUse && !this.#held.has(name)).map(({ name }) => name),
    )
    for (const name of names) {
      const usable = this.#parts.bitmaps.find(name)?.inconsistent !== true
      if (usable && !unknown.has(name)) this.#held.add(name)
    }
  }

  /** In place, and only flags: whatever of it reaches the disk is a directory. */
  async #markInUse(which: ReadonlySet<StoredBitmap>): Promise<void> {
    const { image } = this.#parts
    if (this.#stored === undefined) return
    const list = this.#stored.list.map((one) => (which.has(one) ? { ...one, inUse: true } : one))
    const { directoryOffset, directorySize } = this.#stored.directory
    const bytes = formatBitmapDirectory(list)
    // A name that is no UTF-8 was not kept as it is.
    if (bytes.length !== directorySize)
      throw await image.corrupt('write', 'Invalid bitmap name', directoryOffset)
    await image.write(directoryOffset, bytes)
    await image.flush()
    for (const { name } of which) this.#held.add(name)
    this.#stored = { ...this.#stored, list }
  }

  async #write(name: string, taken: Taken): Promise<StoredBitmap> {
    const bitmap = this.#parts.bitmaps.get(name)
    const bits = bitmap.everything()
    const place = await writeBits(this.#parts, bits, taken)
    return { ...newEntry(name, bits.granularity), ...place, auto: bitmap.recording }
  }

  /**
   * A new directory takes the place of the old one.
   * @param gone   what was in the old one, and whose clusters are free then
   * @param taken  gets the clusters of the new one; emptied when they are in use for good
   */
  async #replace(list: readonly StoredBitmap[], gone: readonly StoredBitmap[], taken: Taken): Promise<void> {
    const { image, refcounts, tables, commit } = this.#parts
    const old = this.#stored
    const bytes = formatBitmapDirectory(list)
    const directory = { count: list.length, directorySize: bytes.length, directoryOffset: 0 }
    if (list.length > 0) {
      const place = await refcounts.allocateWhole(Math.ceil(bytes.length / image.clusterSize))
      taken.push(place)
      directory.directoryOffset = place.offset
      await image.write(place.offset, bytes)
    }
    // The new clusters count before the header names them.
    await commit.run()
    taken.splice(0)
    await this.#name(list.length > 0 ? formatBitmapsExtension(directory) : undefined)
    this.#stored = list.length > 0 ? { directory, list } : undefined
    for (const one of gone) await freeBits(this.#parts, one).catch(leaked)
    if (old !== undefined) await this.#freeDirectory(old).catch(leaked)
    tables.add(directory.directoryOffset, directory.directorySize, 'bitmap directory')
    for (const { tableOffset, tableSize } of list) tables.add(tableOffset, tableSize * 8, 'bitmap table')
  }

  /** Clusters that are not in use after a failure. */
  async #giveBack(taken: Taken): Promise<void> {
    for (const { offset, length } of taken)
      await this.#parts.refcounts.release(offset, length).catch(() => undefined)
  }

  async #freeDirectory({ directory }: StoredBitmaps): Promise<void> {
    const { image, refcounts, tables } = this.#parts
    const length = roundUp(directory.directorySize, image.clusterSize)
    tables.delete(directory.directoryOffset, length)
    await refcounts.release(directory.directoryOffset, length, 'other')
  }

  /**
   * Has the header name a directory, or none. A sector is written whole or not at all; where more than one changes, the
   * header says meanwhile that what it names does not count.
   */
  async #name(data: Uint8Array | undefined): Promise<void> {
    const { image } = this.#parts
    const extensions = this.#extensions(data)
    const uncounted = new Set(image.header.autoclear)
    uncounted.delete(Autoclear.bitmaps)
    const counted = data === undefined ? uncounted : new Set([...uncounted, Autoclear.bitmaps])
    if (!oneSectorDiffers(image.header, { ...image.header, extensions, autoclear: counted })) {
      await image.changeHeader({ autoclear: uncounted })
      await image.changeHeader({ extensions })
    }
    await image.changeHeader({ extensions, autoclear: counted })
  }

  /** Those of the header, with this data about bitmaps; it stays where it is. */
  #extensions(data: Uint8Array | undefined): Extension[] {
    const type = ExtensionType.bitmaps
    const { extensions } = this.#parts.image.header
    const mine = data === undefined ? [] : [{ type, data }]
    if (!extensions.some((extension) => extension.type === type)) return [...extensions, ...mine]
    return extensions.flatMap((extension) => (extension.type === type ? mine : [extension]))
  }
}

function newEntry(name: string, granularity: number): StoredBitmap {
  return {
    ...{ name, tableOffset: 0, tableSize: 0, inUse: false, auto: true },
    ...{ granularityBits: Math.log2(granularity), extraCompatible: false, extra: new Uint8Array(0) },
  }
}

function oneSectorDiffers(header: Header, changed: Header): boolean {
  const [before, after] = [formatHeader(header), formatHeader(changed)]
  const sectors = new Set<number>()
  for (const [at, byte] of after.entries()) if (byte !== before[at]) sectors.add(Math.floor(at / SECTOR))
  return sectors.size <= 1
}

/** What could not be given back is a leak, which the next check finds. */
function leaked(): void {}
