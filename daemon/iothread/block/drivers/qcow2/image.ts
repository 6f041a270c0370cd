// SPDX-License-Identifier: Apache-2.0
// A qcow2 image's file and header: what all parts of the driver share. Tables are read and written through buffers of
// the driver; the header is changed here only, one sector at once, so a change is there or is not.

import { FormatError } from '../../../../../protocol/format-error.js'
import { Autoclear, changeFields, type Header, Incompatible } from '../../../../../protocol/qcow2/header.js'
import { EIO, ENOSPC } from '../../../../common/errno.js'
import { IoError, type IoOp } from '../../../../errors.js'
import type { BackingFile } from '../../driver.js'
import type { DriverBuffers } from '../../driver-buffers.js'
import { TABLE_BUFFER } from '../../driver-buffers.js'
import { type BlockNode, SECTOR } from '../../node.js'
import { backingSteps, extensionSteps, type HeaderStep } from './backing-header.js'
import { Turns } from './turn.js'

/** The file grows by steps, so that writes seldom change its length, bytes. */
const LEAST_GROWTH = 4 << 20
const MOST_GROWTH = 256 << 20

/** One that is shown in place of the disk. */
export interface ShownSnapshot {
  readonly name: string
  /** What `name` is; any: the id of one, else the name of one. */
  readonly by: 'any' | 'id' | 'name'
}

export interface ImageEnv {
  /** Name of the node, for errors. */
  readonly name: string
  /** Changed in drained sections only, as `dataFile` is. */
  file: BlockNode
  /** Where guest data lies, when that is not the file. */
  dataFile: BlockNode | undefined
  readonly buffers: DriverBuffers
  /** Absent: the disk. */
  readonly snapshot?: ShownSnapshot
  /** Asked each time: the file may be reopened. */
  readonly readOnly: () => boolean
  /** Told once of each image found corrupt. */
  readonly corrupted: (text: string, at: { offset: number; size: number; fatal: boolean }) => void
}

export class Image {
  readonly env: ImageEnv
  readonly clusterSize: number
  /** L2 entries have 16 bytes and 32 subclusters. */
  readonly extended: boolean
  readonly entrySize: 8 | 16
  /** Entries of an L2 table. */
  readonly l2Entries: number
  /** Entries of a refcount block. */
  readonly blockEntries: number
  #header: Header
  /** Set when nothing may be written any more: what is on the disk is not known, or not sound. */
  #broken: IoError | undefined
  /** What users heard of damage: each kind once. */
  #told: 'nothing' | 'damage' | 'end of writing' = 'nothing'
  /** A change of the file's length under way. */
  #growing: Promise<void> | undefined
  /** One change of the header at once: each writes all of it. */
  readonly #changes = new Turns()

  constructor(env: ImageEnv, header: Header) {
    this.env = env
    this.#header = header
    this.clusterSize = 2 ** header.clusterBits
    this.extended = header.incompatible.has(Incompatible.extendedL2)
    this.entrySize = this.extended ? 16 : 8
    this.l2Entries = this.clusterSize / this.entrySize
    this.blockEntries = (this.clusterSize * 8) / 2 ** header.refcountOrder
  }

  get header(): Header {
    return this.#header
  }
  get dataFile(): BlockNode {
    return this.env.dataFile ?? this.env.file
  }
  get external(): boolean {
    return this.env.dataFile !== undefined
  }
  /** The data file is to be right without the map. */
  get rawData(): boolean {
    return this.external && this.#header.autoclear.has(Autoclear.rawDataFile)
  }
  /** Bytes one L2 table shows. */
  get l2Span(): number {
    return this.l2Entries * this.clusterSize
  }

  /** The header was read anew. */
  reloaded(header: Header): void {
    this.#header = header
  }

  /** Bytes of the file; what lies beyond its end reads as zero. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    await this.readInto(offset, bytes)
    return bytes
  }

  async readInto(offset: number, bytes: Uint8Array): Promise<void> {
    const { file, buffers } = this.env
    const there = Math.min(bytes.length, Math.max(0, Math.ceil(file.length() / SECTOR) * SECTOR - offset))
    bytes.fill(0, there)
    using loan = await buffers.tables.take()
    const [buffer] = loan.slices
    for (let done = 0; buffer !== undefined && done < there; ) {
      const slice = { ...buffer, length: Math.min(TABLE_BUFFER, there - done) }
      await file.read(offset + done, slice)
      const from = buffers.engine.slotBytes(slice.slot)
      bytes.set(from.subarray(slice.offset, slice.offset + slice.length), done)
      done += slice.length
    }
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.checkSound()
    await this.ensureLength(offset + bytes.length)
    const { file, buffers } = this.env
    using loan = await buffers.tables.take()
    const [buffer] = loan.slices
    for (let done = 0; buffer !== undefined && done < bytes.length; ) {
      const slice = { ...buffer, length: Math.min(TABLE_BUFFER, bytes.length - done) }
      const into = buffers.engine.slotBytes(slice.slot)
      into.set(bytes.subarray(done, done + slice.length), slice.offset)
      await file.write(offset + done, slice)
      done += slice.length
    }
  }

  /**
   * Everything written is durable, in the file and in the data file. After a failure nobody knows what is on the disk:
   * nothing more is written.
   */
  async flush(): Promise<void> {
    this.checkSound()
    try {
      if (this.env.dataFile !== undefined) await this.env.dataFile.flush()
      await this.env.file.flush()
    } catch (error) {
      if (error instanceof IoError) this.#broken ??= error
      throw error
    }
  }

  /** False: after a failure nobody knows what is on the disk. */
  get isSound(): boolean {
    return this.#broken === undefined
  }

  /** @throws IoError when an earlier failure forbids changes */
  checkSound(): void {
    if (this.#broken === undefined) return
    throw new IoError(EIO, 'write', this.env.name, 0, 0, { cause: this.#broken })
  }

  /** Lengthens the file when what is to be written lies beyond its end; by more than that, to do it seldom. */
  async ensureLength(end: number, node: BlockNode = this.env.file): Promise<void> {
    while (this.#growing !== undefined) await this.#growing
    const length = node.length()
    if (end <= length) return
    if (!node.driver.can.resize) throw new IoError(ENOSPC, 'write', node.name, length, end - length)
    const step = Math.min(MOST_GROWTH, Math.max(LEAST_GROWTH, length / 4))
    const wanted = Math.ceil(Math.max(end, length + step) / this.clusterSize) * this.clusterSize
    this.#growing = node.resize(node === this.env.file ? wanted : end).finally(() => {
      this.#growing = undefined
    })
    await this.#growing
  }

  /**
   * Changes fields of the header: durable before and after; what else is in its sector stays. After a failure nobody knows
   * which header is on the disk, and which tables are in use: nothing more is written.
   */
  changeHeader(changes: Omit<Partial<Header>, 'backingFile'>): Promise<void> {
    return this.#changes.run(() => this.#changeHeader(changes))
  }

  /**
   * The image names another backing file, or none; durable on return. Whenever this is cut off, it names the old or the
   * new one.
   */
  nameBacking(backing: BackingFile | undefined): Promise<void> {
    return this.#changes.run(async () => {
      await this.flush()
      const old = await this.read(0, this.clusterSize)
      await this.#decided(() => this.#writeSteps(backingSteps(this.#header, old, backing)))
    })
  }

  async #changeHeader(changes: Omit<Partial<Header>, 'backingFile'>): Promise<void> {
    await this.flush()
    const header = { ...this.#header, ...changes }
    if (changes.extensions !== undefined) {
      const old = await this.read(0, this.clusterSize)
      await this.#decided(() => this.#writeSteps(extensionSteps(this.#header, old, header)))
      return
    }
    const bytes = await this.read(0, SECTOR)
    changeFields(bytes, header)
    await this.#decided(() => this.write(0, bytes))
    this.#header = header
    await this.flush()
  }

  async #writeSteps(steps: readonly HeaderStep[]): Promise<void> {
    const more = this.clusterSize > SECTOR
    for (const { header, bytes, beside } of steps) {
      if (more) await this.write(SECTOR, beside.subarray(SECTOR))
      await this.flush()
      await this.write(0, bytes.subarray(0, SECTOR))
      this.#header = header
      await this.flush()
      if (more) await this.write(SECTOR, bytes.subarray(SECTOR))
    }
    await this.flush()
  }

  /** After a failure nobody knows which header is on the disk. */
  async #decided(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (error instanceof IoError) this.#broken ??= error
      throw error
    }
  }

  /**
   * Something in the image contradicts itself or the format.
   * @param offset  guest or host offset that led there
   * @returns the error to throw; when the image is being changed, it is marked and nothing more is written to it
   */
  async corrupt(op: IoOp, text: string, offset: number, size = 0): Promise<IoError> {
    const cause = new FormatError(text)
    const error = new IoError(EIO, op, this.env.name, offset, size, { cause })
    const fatal = !this.env.readOnly() && op !== 'read' && op !== 'status'
    this.#tell(text, { offset, size, fatal })
    if (fatal && this.#broken === undefined) {
      if (this.#header.version === 3) {
        const incompatible = new Set([...this.#header.incompatible, Incompatible.corrupt])
        // The mark is a help for others; without it this error is the same.
        await this.changeHeader({ incompatible }).catch(() => undefined)
      }
      this.#broken = error
    }
    return error
  }

  #tell(text: string, at: { offset: number; size: number; fatal: boolean }): void {
    if (this.#told === 'end of writing' || (this.#told === 'damage' && !at.fatal)) return
    this.#told = at.fatal ? 'end of writing' : 'damage'
    this.env.corrupted(text, at)
  }
}
