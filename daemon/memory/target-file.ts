// SPDX-License-Identifier: Apache-2.0
// The file an image is written to. It has its name when it is complete and durable, and until then nobody can take it for an
// image: it is written under a passing name, and its first bytes are ours. Used by the sinks that write files.
//
//   NAME absent or a regular file, offset 0    passing name beside it, renamed at the end
//   device, descriptor, or offset > 0          in place; the first bytes are written last

import { basename, dirname, join } from 'node:path'
import type { FileId } from '../../native/types.js'
import { EACCES, EEXIST, ENOENT } from '../common/errno.js'
import { Cancelled, CommandError, IoError } from '../errors.js'
import { identityOf } from './file-bytes.js'
import type { FilePlace, FlushMode } from './messages.js'
import type { Slots } from './slots.js'

/** What stands at the place of the first bytes until the file is complete: "BFerry part". */
export const PART_MARK = new TextEncoder().encode('BFerryPart')

/** Memory holds secrets: for its owner only. */
const MODE = 0o600
const TRIES = 100

export interface TargetOptions {
  readonly slots: Slots
  readonly place: FilePlace
  /** Where the image begins, bytes. */
  readonly offset: number
  readonly direct: boolean
  readonly flush: FlushMode
  /** A file that belongs to what has the name now: it goes when that is replaced. */
  readonly companion: string | undefined
  /** Told once a descriptor was duplicated. */
  readonly fdTaken: (fd: number) => void
  /** Identity of the file that is read meanwhile; undefined: there is none. */
  readonly source: string | undefined
}

export class TargetFile {
  readonly file: FileId
  /** For errors and users: the name it will have. */
  readonly name: string
  readonly #options: TargetOptions
  /** Name until it is renamed; undefined where it is written in place. */
  readonly #passing: string | undefined
  /** It has its name. */
  #renamed = false
  /** There was a file of that name. */
  #replaces = false
  /** What comes to its end later must not give it its name. */
  #givenUp = false
  #closed = false
  #complete = false
  /** It is a regular file in a folder that is known, which may have it as a new one. Set when it is opened. */
  #inFolder = false

  private constructor(options: TargetOptions, file: FileId, name: string, passing: string | undefined) {
    this.#options = options
    this.file = file
    this.name = name
    this.#passing = passing
  }

  /** Opens it, and marks it as a part. @throws IoError, CommandError */
  static async open(options: TargetOptions): Promise<TargetFile> {
    const { slots, place, offset, direct } = options
    const { engine } = slots
    if (place.kind === 'fd') {
      const file = await engine.adopt(place.fd)
      options.fdTaken(place.fd)
      return await TargetFile.#marked(
        options,
        checked(file, 'open', `fd ${place.fd}`),
        `fd ${place.fd}`,
        undefined,
      )
    }
    const { path } = place
    const there = await kindOf(slots, path)
    if (offset > 0 || there === 'other') {
      const file = await engine.open(path, { write: true, create: true, direct, mode: MODE })
      return await TargetFile.#marked(options, created(file, path), path, undefined)
    }
    for (let number = 0; ; number++) {
      const passing = join(dirname(path), `.${basename(path)}.part${number}`)
      const flags = { write: true, create: true, exclusive: true, direct, mode: MODE }
      const file = await engine.open(passing, flags)
      if (file === -EEXIST && number < TRIES) continue
      const target = await TargetFile.#marked(options, created(file, path), path, passing)
      target.#replaces = there === 'file'
      return target
    }
  }

  static async #marked(
    options: TargetOptions,
    file: FileId,
    name: string,
    passing: string | undefined,
  ): Promise<TargetFile> {
    if (passing === undefined) await refuseSource(options, file, name)
    const target = new TargetFile(options, file, name, passing)
    try {
      if (passing === undefined) await target.#empty()
      else target.#inFolder = true
      await target.write(options.offset, PART_MARK)
    } catch (error) {
      await target.abort()
      throw error
    }
    return target
  }

  /** Writes some bytes; whatever is longer goes through slots of the sink's own. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const { slots } = this.#options
    const slot = await slots.take('gather')
    try {
      for (let done = 0; done < bytes.length; ) {
        const step = Math.min(slots.size, bytes.length - done)
        slots.bytes(slot).set(bytes.subarray(done, done + step))
        const result = await slots.engine.write(this.file, offset + done, step, slot, 0)
        if (result < 0) throw new IoError(-result, 'write', this.name, offset + done, step)
        done += step
      }
    } finally {
      slots.give(slot)
    }
  }

  /**
   * Everything else was written.
   * @param first  the first bytes of the image, at least as long as the mark
   */
  async complete(first: Uint8Array): Promise<void> {
    const { offset, flush } = this.#options
    // In place nothing but the first bytes tells a whole image from a part: they must not reach the disk before the rest.
    if (this.#passing === undefined) {
      await this.#flush(flush !== 'none')
      await this.#inItsFolder((flush) => flush())
    }
    await this.write(offset, first)
    await this.#flush(flush !== 'none')
    if (this.#passing !== undefined) await this.#rename(this.#passing)
    await this.#close()
    if (this.#givenUp) throw new Cancelled()
    this.#complete = true
  }

  /**
   * It has less bytes than these, and gets them. Writes past the page cache that make a file longer are slower: 512 KiB each by 8
   * threads to ext4 went at 1.8 to 2.0 GB/s, and at 2.6 to 3.1 within its length. A failure is left to the writes to tell.
   */
  async growTo(length: number): Promise<void> {
    await this.#options.slots.engine.truncate(this.file, length)
  }

  /** What was written behind an offset is not to be there. Devices keep it, behind the image. */
  async endAt(offset: number): Promise<void> {
    if (!this.#inFolder) return
    const result = await this.#options.slots.engine.truncate(this.file, offset)
    if (result < 0) throw new IoError(-result, 'resize', this.name, 0, offset)
  }

  /** Takes its name away, whatever hangs in other calls. abort() follows. */
  async giveUp(): Promise<void> {
    if (this.#complete || this.#givenUp) return
    this.#givenUp = true
    if (this.#passing !== undefined) await this.#unlink(this.#passing)
  }

  /** Nothing of it is left but, in a file written in place, what was before the image. */
  async abort(): Promise<void> {
    if (this.#complete) return
    const gone = this.giveUp()
    if (!this.#closed) await this.#cut()
    await gone
    if (!this.#closed) await this.#close()
  }

  /** Space is given back even while somebody holds the file open, and what a name that stays leads to is no image. */
  async #cut(): Promise<void> {
    const { slots, offset } = this.#options
    if (this.#isLast) return
    const result = await slots.engine.truncate(this.file, offset)
    if (result < 0) await this.write(offset, PART_MARK).catch(() => undefined)
  }

  async #unlink(passing: string): Promise<void> {
    if (!this.#isLast) await this.#options.slots.engine.unlink(this.#renamed ? this.name : passing)
  }

  /** It took the place of a file that is gone by now: whole as it is, it is better than none. */
  get #isLast(): boolean {
    return this.#renamed && this.#replaces
  }

  /** What is in the file behind its beginning is no part of the image. Devices cannot be cut. */
  async #empty(): Promise<void> {
    const { slots, offset } = this.#options
    const facts = await slots.engine.stat(this.file)
    if (typeof facts === 'number') throw new IoError(-facts, 'stat', this.name)
    if (facts.kind !== 'file') return
    this.#inFolder = this.#options.place.kind === 'path'
    const result = await slots.engine.truncate(this.file, offset)
    if (result < 0) throw new IoError(-result, 'resize', this.name, 0, offset)
  }

  async #flush(wanted: boolean): Promise<void> {
    if (!wanted) return
    const result = await this.#options.slots.engine.flush(this.file, true)
    if (result < 0) throw new IoError(-result, 'flush', this.name)
  }

  async #rename(passing: string): Promise<void> {
    const { engine } = this.#options.slots
    // A folder that cannot be opened is told while the file that has the name is still there.
    await this.#inItsFolder(async (flush) => {
      if (this.#givenUp) throw new Cancelled()
      checked(await engine.rename(passing, this.name), 'rename', this.name)
      this.#renamed = true
      if (this.#givenUp) {
        await this.#unlink(passing)
        throw new Cancelled()
      }
      // There may be none.
      if (this.#options.companion !== undefined) await engine.unlink(this.#options.companion)
      await flush()
    })
  }

  /** @param work  is given what makes the name durable; which does nothing where that was not asked for */
  async #inItsFolder(work: (flush: () => Promise<void>) => Promise<void>): Promise<void> {
    if (this.#options.flush !== 'full' || !this.#inFolder) return await work(async () => {})
    const { engine } = this.#options.slots
    const flags = { write: false, directory: true }
    const folder = checked(await engine.open(dirname(this.name), flags), 'open', this.name)
    try {
      await work(async () => {
        const result = await engine.flush(folder, false)
        if (result < 0) throw new IoError(-result, 'flush', this.name)
      })
    } finally {
      await engine.close(folder)
    }
  }

  async #close(): Promise<void> {
    this.#closed = true
    await this.#options.slots.engine.close(this.file)
  }
}

/** What is there. A new file may take the place of a regular one. */
async function kindOf({ engine }: Slots, path: string): Promise<'nothing' | 'file' | 'other'> {
  // For reading, which waits for nobody at a FIFO. Who may not read a file may replace it all the same.
  const file = await engine.open(path, { write: false })
  if (file === -ENOENT) return 'nothing'
  if (file === -EACCES) return 'file'
  checked(file, 'open', path)
  const facts = await engine.stat(file)
  await engine.close(file)
  if (typeof facts === 'number') throw new IoError(-facts, 'stat', path)
  return facts.kind === 'file' ? 'file' : 'other'
}

/** What is written in place must not be what is read. @throws CommandError, IoError; then it is closed */
async function refuseSource({ slots: { engine }, source }: TargetOptions, file: FileId, name: string) {
  if (source === undefined) return
  const facts = await engine.stat(file)
  if (typeof facts !== 'number' && identityOf(facts) !== source) return
  await engine.close(file)
  if (typeof facts === 'number') throw new IoError(-facts, 'stat', name)
  throw new CommandError(`source and target '${name}' are the same file`)
}

function created(result: number, path: string): FileId {
  if (result >= 0) return result
  const cause = new IoError(-result, 'open', path)
  throw new CommandError(`Could not create '${path}': ${cause.message}`, 'GenericError', { cause })
}

function checked(result: number, op: 'open' | 'rename', name: string): number {
  if (result < 0) throw new IoError(-result, op, name)
  return result
}
