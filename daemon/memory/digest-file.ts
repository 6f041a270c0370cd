// SPDX-License-Identifier: Apache-2.0
// The file of checksums beside an image: written when the image is complete, read when one is looked at.

import { crc32c } from '../../native/page-scanner.js'
import { FormatError } from '../../protocol/format-error.js'
import {
  DIGESTS_END,
  type DigestHead,
  digestsLengthOf,
  formatDigestHead,
  parseDigestHead,
} from '../../protocol/migration/digests.js'
import { ENOENT } from '../common/errno.js'
import { IoError } from '../errors.js'
import { FileBytes } from './file-bytes.js'
import type { BlockPlace, ImageHead } from './image.js'
import type { FlushMode } from './messages.js'
import type { Slots } from './slots.js'
import { PART_MARK, TargetFile } from './target-file.js'

/** Digests are read and written in steps, bytes. */
const STEP = 2 ** 20

/** What was found out about an image on its way. */
export interface Digested {
  readonly head: Pick<ImageHead, 'pageSize' | 'blocks'>
  readonly places: readonly BlockPlace[]
  /** SHA-256. */
  readonly states: Uint8Array
}

/** Digests for all pages of a block, all of them zero yet. */
export function freshDigests(length: number, pageSize: number): Uint32Array {
  return new Uint32Array(length / pageSize).fill(crc32c(new Uint8Array(pageSize)))
}

/** A file of checksums that is on its way to its name. */
export class DigestWriter {
  readonly #slots: Slots
  readonly #flush: FlushMode
  readonly #target: TargetFile
  #first = new Uint8Array()

  private constructor(slots: Slots, flush: FlushMode, target: TargetFile) {
    this.#slots = slots
    this.#flush = flush
    this.#target = target
  }

  /** That it will have. */
  get name(): string {
    return this.#target.name
  }

  /** @throws IoError */
  static async open(slots: Slots, path: string, flush: FlushMode): Promise<DigestWriter> {
    const place = { kind: 'path', path } as const
    const how = {
      slots,
      place,
      offset: 0,
      direct: false,
      flush,
      companion: undefined,
      source: undefined,
      fdTaken: () => undefined,
    }
    return new DigestWriter(slots, flush, await TargetFile.open(how))
  }

  /** Everything is in the file, and durable; it has no name yet. @throws IoError */
  async write({ head, places, states }: Digested): Promise<void> {
    const target = this.#target
    const start = formatDigestHead({ ...head, states }, crc32c)
    this.#first = start.slice(0, PART_MARK.length)
    await target.write(PART_MARK.length, start.subarray(PART_MARK.length))
    let at = start.length
    let sum = 0
    for (const { digests } of places) {
      const bytes = bytesOf(digests ?? new Uint32Array())
      for (let done = 0; done < bytes.length; done += STEP) {
        const step = bytes.subarray(done, done + STEP)
        sum = crc32c(step, false, sum)
        await target.write(at + done, step)
      }
      at += bytes.length
    }
    const end = new Uint8Array(DIGESTS_END)
    new DataView(end.buffer).setUint32(0, sum)
    await target.write(at, end)
    if (this.#flush === 'none') return
    const result = await this.#slots.engine.flush(target.file, true)
    if (result < 0) throw new IoError(-result, 'flush', target.name)
  }

  /** It gets its name. @throws IoError */
  async complete(): Promise<void> {
    await this.#target.complete(this.#first)
  }

  async abort(): Promise<void> {
    await this.#target.abort()
  }
}

/** A file of checksums that is there. */
export class DigestReader {
  readonly head: DigestHead
  readonly #file: FileBytes
  readonly #start: number

  private constructor(file: FileBytes, head: DigestHead, start: number) {
    this.#file = file
    this.head = head
    this.#start = start
  }

  get name(): string {
    return this.#file.name
  }

  /** @returns undefined when there is none. @throws IoError; FormatError when it is damaged or none */
  static async open(slots: Slots, path: string): Promise<DigestReader | undefined> {
    const file = await opened(slots, path)
    if (file === undefined) return undefined
    try {
      const { value: head, length } = await file.parse(
        0,
        (bytes) => parseDigestHead(bytes, crc32c),
        'its head',
      )
      const expected = length + digestsLengthOf(head) + DIGESTS_END
      if (file.length !== expected)
        throw new FormatError(`${path} has ${file.length} bytes, not the ${expected} of its blocks`)
      return new DigestReader(file, head, length)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /**
   * All digests, in steps.
   * @throws IoError; FormatError at the end, when they are not what was written
   */
  async *steps(): AsyncGenerator<{
    readonly block: number
    readonly page: number
    readonly digests: Uint32Array
  }> {
    const { pageSize, blocks } = this.head
    let at = this.#start
    let sum = 0
    for (const [block, { length }] of blocks.entries()) {
      const bytes = (length / pageSize) * Uint32Array.BYTES_PER_ELEMENT
      for (let done = 0; done < bytes; done += STEP) {
        const step = await this.#file.bytes(at + done, Math.min(STEP, bytes - done))
        sum = crc32c(step, false, sum)
        yield { block, page: done / Uint32Array.BYTES_PER_ELEMENT, digests: new Uint32Array(step.buffer) }
      }
      at += bytes
    }
    const end = await this.#file.bytes(at, DIGESTS_END)
    if (new DataView(end.buffer).getUint32(0) !== sum)
      throw new FormatError(
        `${this.name} is damaged: its checksums do not have the checksum they should have`,
      )
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

async function opened(slots: Slots, path: string): Promise<FileBytes | undefined> {
  try {
    return await FileBytes.open(slots, { kind: 'path', path }, false, () => undefined)
  } catch (error) {
    if (error instanceof IoError && error.errno === ENOENT) return undefined
    throw error
  }
}

/** The same memory; little-endian, as every machine is that runs this. */
function bytesOf(digests: Uint32Array): Uint8Array {
  return new Uint8Array(digests.buffer, digests.byteOffset, digests.byteLength)
}
