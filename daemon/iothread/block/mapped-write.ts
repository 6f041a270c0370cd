// SPDX-License-Identifier: Apache-2.0
// Changes of a mapped image: writes where the bytes are, or into a new place that link() shows; zeroes and discards in
// the map. Used by MappedDriver only.
//
// Order: changes that stay where the bytes are share their clusters; those that change the map hold them alone. So two
// writes into one new cluster follow each other, and neither copies what the other is writing.

import { ENOTSUP } from '../../common/errno.js'
import { IoError } from '../../errors.js'
import { TaskPool } from '../copy/task-pool.js'
import type { Slice, WriteHow, ZeroHow } from './driver.js'
import { type Data, inFile, type MappedDriver, type MappedOptions, part } from './mapped.js'
import type { Allocation, MapDriver, PackedPlaces } from './mapping.js'
import { RangeLock } from './range-lock.js'

/** Of a size in front of packed clusters; see IoEngine.compress. */
const SIZE_BYTES = 4
/** Where packed clusters begin in a buffer, bytes: past the sizes, and aligned for O_DIRECT. */
const PACKED_START = 4096

export class MappedWriter {
  readonly #options: MappedOptions
  readonly #map: MapDriver
  readonly #driver: MappedDriver
  readonly #ranges = new RangeLock()

  constructor(options: MappedOptions, driver: MappedDriver) {
    this.#options = options
    this.#map = options.map
    this.#driver = driver
  }

  async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    const { length } = from
    await this.#map.beforeChange()
    if (how.below === true) await this.#alone(offset, length, () => this.#writeBelow(offset, from))
    else if (how.compressed === true && this.#wholeClusters(offset, length)) {
      await this.#alone(offset, length, () => this.#writePacked(offset, from))
    } else if (!(await this.#shared(offset, length, () => this.#writeInPlace(offset, from)))) {
      await this.#alone(offset, length, () => this.#writeAllocating(offset, from))
    }
    if (how.fua === true) await this.#map.flush()
  }

  async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    await this.#map.beforeChange()
    if (how.below === true) return this.#alone(offset, length, () => this.#zeroBelow(offset, length))
    await this.#alone(offset, length, async () => {
      const end = offset + length
      for (let at = offset; at < end; ) {
        const done = await this.#map.mapZero(at, end - at, how.unmap, how.stored)
        at += done > 0 ? done : await this.#writeZeroes(at, end - at, how.fast)
      }
    })
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#map.beforeChange()
    await this.#alone(offset, length, () => this.#map.unmap(offset, length))
  }

  /** Runs work that leaves the map as it is. */
  #shared<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#held(offset, length, false, work)
  }

  /** Runs work that changes the map of these clusters. */
  #alone<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#held(offset, length, true, work)
  }

  async #held<T>(offset: number, length: number, alone: boolean, work: () => Promise<T>): Promise<T> {
    const { clusterSize } = this.#map
    const start = Math.floor(offset / clusterSize) * clusterSize
    const end = Math.ceil((offset + length) / clusterSize) * clusterSize
    const hold = await this.#ranges.acquire(start, end - start, alone)
    const epoch = this.#map.enter()
    try {
      return await work()
    } finally {
      this.#map.leave(epoch)
      this.#ranges.release(hold)
    }
  }

  /** @returns false, with nothing written, when a part has no writable place */
  async #writeInPlace(offset: number, from: Slice): Promise<boolean> {
    const pieces: Data[] = []
    for (let done = 0; done < from.length; ) {
      for (const mapping of await this.#map.maps(offset + done, from.length - done, 'write')) {
        if (mapping.kind !== 'data' || !mapping.writable) return false
        const last = pieces.at(-1)
        if (last !== undefined && last.file === mapping.file && last.host + last.length === mapping.host) {
          pieces[pieces.length - 1] = { ...last, length: last.length + mapping.length }
        } else pieces.push(mapping)
        done += mapping.length
      }
    }
    const [first] = pieces
    if (first === undefined) return true
    // Data of one image lies in one file.
    if (pieces.length === 1) await first.file.write(first.host, from)
    else await first.file.writePieces(pieces.map(inFile), from, this.#options.tasks)
    return true
  }

  async #writeAllocating(offset: number, from: Slice): Promise<void> {
    const pool = new TaskPool(this.#options.tasks)
    try {
      for (let done = 0; done < from.length; ) {
        const at = offset + done
        const left = from.length - done
        const mapping = await this.#map.map(at, left, 'write')
        if (mapping.kind === 'data' && mapping.writable) {
          const slice = part(from, done, mapping.length)
          await pool.start(() => mapping.file.write(mapping.host, slice))
          done += mapping.length
          continue
        }
        await pool.room()
        const place = await this.#map.allocate(at, left)
        const length = Math.min(left, place.offset + place.length - at)
        const slice = part(from, done, length)
        await pool
          .start(() => this.#fill(place, at, slice))
          .catch(async (error: unknown) => {
            // Another piece failed meanwhile: this one was not begun.
            await place.abandon()
            throw error
          })
        done += length
      }
    } finally {
      await pool.settle()
    }
    await pool.idle()
  }

  /** Stores what is not stored here yet. Whoever wrote since the data were read from below has stored something newer. */
  async #writeBelow(offset: number, from: Slice): Promise<void> {
    for (let done = 0; done < from.length; ) {
      const { kind, length } = await this.#map.map(offset + done, from.length - done, 'write')
      if (kind === 'backing') await this.#writeAllocating(offset + done, part(from, done, length))
      done += length
    }
  }

  async #zeroBelow(offset: number, length: number): Promise<void> {
    const { zeroes } = this.#options.buffers
    const end = offset + length
    for (let at = offset; at < end; ) {
      const mapping = await this.#map.map(at, end - at, 'write')
      if (mapping.kind !== 'backing') {
        at += mapping.length
        continue
      }
      const done = await this.#map.mapZero(at, mapping.length, false, true)
      const slice = part(zeroes, 0, Math.min(mapping.length, zeroes.length))
      if (done === 0) await this.#writeAllocating(at, slice)
      at += done > 0 ? done : slice.length
    }
  }

  /** Writes the data and, around it, what was there before; then shows it. */
  async #fill(place: Allocation, at: number, from: Slice): Promise<void> {
    const end = at + from.length
    try {
      const parts = [place.file.write(place.host + (at - place.offset), from)]
      if (at > place.offset) parts.push(this.#keepOld(place, place.offset, at - place.offset))
      const rest = place.offset + place.length - end
      if (rest > 0) parts.push(this.#keepOld(place, end, rest))
      const failed = (await Promise.allSettled(parts)).find((result) => result.status === 'rejected')
      if (failed !== undefined) throw failed.reason
    } catch (error) {
      await place.abandon()
      throw error
    }
    await place.link()
  }

  /** Brings old content to the new place, in pieces of a buffer. */
  async #keepOld(place: Allocation, offset: number, length: number): Promise<void> {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const extent = await this.#driver.status(at, end - at)
      const host = place.host + (at - place.offset)
      if (extent.kind === 'zero') {
        const zero = Math.min(extent.length, end - at)
        if (!place.blank) await place.file.zero(host, zero, { unmap: false, fast: false })
        at += zero
        continue
      }
      using loan = await this.#options.buffers.copies.take()
      const [buffer] = loan.slices
      if (buffer === undefined) return
      const slice = part(buffer, 0, Math.min(extent.length, end - at, buffer.length))
      await this.#driver.read(at, slice)
      await place.file.write(host, slice)
      at += slice.length
    }
  }

  /**
   * Zeroes as data, for a part of a cluster that the map cannot make zero.
   * @returns bytes done
   * @throws IoError ENOTSUP when it must be fast
   */
  async #writeZeroes(offset: number, length: number, fast: boolean): Promise<number> {
    const { clusterSize } = this.#map
    const inCluster = Math.min(length, clusterSize - (offset % clusterSize))
    const extent = await this.#driver.status(offset, inCluster)
    const amount = Math.min(inCluster, extent.length)
    if (extent.kind === 'zero') return amount
    if (fast) throw new IoError(ENOTSUP, 'zero', this.#options.name, offset, amount)
    const { zeroes } = this.#options.buffers
    const slice = part(zeroes, 0, Math.min(amount, zeroes.length))
    if (!(await this.#writeInPlace(offset, slice))) await this.#writeAllocating(offset, slice)
    return slice.length
  }

  #wholeClusters(offset: number, length: number): boolean {
    const { clusterSize } = this.#map
    const reachesEnd = offset + length >= this.#map.length()
    return offset % clusterSize === 0 && (length % clusterSize === 0 || reachesEnd)
  }

  /**
   * Each cluster packed by itself, a buffer full at once. One is written as it is where it does not get shorter, or, of the longest,
   * not by a page.
   */
  async #writePacked(offset: number, from: Slice): Promise<void> {
    const { clusterSize } = this.#map
    const { slotSize } = this.#options.buffers.engine
    const whole = Math.floor(from.length / clusterSize) * clusterSize
    const most = Math.min(Math.max(slotSize, clusterSize), (PACKED_START / SIZE_BYTES) * clusterSize)
    for (let done = 0; done < whole; done += most) {
      const slice = part(from, done, Math.min(most, whole - done))
      const packed = await this.#packClusters(offset + done, slice)
      for (const [index, isPacked] of packed.entries()) {
        const at = index * clusterSize
        if (!isPacked) await this.#writeAllocating(offset + done + at, part(slice, at, clusterSize))
      }
    }
    if (whole < from.length)
      await this.#writeAllocating(offset + whole, part(from, whole, from.length - whole))
  }

  /** @returns for each cluster whether it was packed */
  async #packClusters(offset: number, from: Slice): Promise<boolean[]> {
    const { engine, packed, long } = this.#options.buffers
    const { clusterSize, compression } = this.#map
    const count = from.length / clusterSize
    using loan = await (from.length > engine.slotSize ? long : packed).take()
    const [into] = loan.slices
    if (into === undefined) return []
    const result = await engine.compress(compression, from, clusterSize, PACKED_START, into)
    if (result < 0) throw new IoError(-result, 'write', this.#options.name, offset, from.length)
    const view = new DataView(engine.slotBytes(into.slot).buffer, 0)
    const start = engine.slotBytes(into.slot).byteOffset + into.offset
    const sizes = Array.from({ length: count }, (_, index) =>
      view.getUint32(start + index * SIZE_BYTES, true),
    )
    const places = await this.#map.allocatePacked(offset, sizes)
    if (places === undefined) return sizes.map(() => false)
    try {
      await this.#writeUnits(places, sizes, into)
    } catch (error) {
      await places.abandon()
      throw error
    }
    await places.link()
    return sizes.map((size) => size > 0)
  }

  /** Packed clusters lie one behind the other in the buffer, and mostly in the file too. */
  async #writeUnits(places: PackedPlaces, sizes: readonly number[], from: Slice): Promise<void> {
    let run: PackedRun | undefined
    let at = PACKED_START
    for (const [index, host] of places.hosts.entries()) {
      const size = sizes[index] ?? 0
      if (host === undefined) continue
      if (run !== undefined && run.host + run.length === host) run.length += size
      else {
        if (run !== undefined) await places.file.write(run.host, part(from, run.at, run.length))
        run = { host, at, length: size }
      }
      at += size
    }
    if (run === undefined) return
    // A whole number of blocks costs no reading; before the next run there is no room for that in the buffer.
    const end = Math.ceil((run.host + run.length) / places.align) * places.align
    const length = Math.min(end - run.host, from.length - run.at)
    const bytes = this.#options.buffers.engine.slotBytes(from.slot)
    bytes.fill(0, from.offset + run.at + run.length, from.offset + run.at + length)
    await places.file.write(run.host, part(from, run.at, length))
  }
}

/** Clusters that follow each other in the file: host offset, offset in the buffer, bytes. */
interface PackedRun {
  readonly host: number
  readonly at: number
  length: number
}
