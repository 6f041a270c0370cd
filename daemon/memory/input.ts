// SPDX-License-Identifier: Apache-2.0
// Bytes that come one behind the other, from a connection or a part of a file, with a cursor. Keeps several receives under
// way, so that the sender does not wait for JavaScript; who does not take what came lets the sender wait. Used by sources.

import type { FileId } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import { concat, type Parsed } from '../../protocol/migration/bytes.js'
import { ECANCELED } from '../common/errno.js'
import { Cancelled, IoError } from '../errors.js'
import type { Pace } from './pace.js'
import type { Slots } from './slots.js'
import type { WaitMeter } from './wait-meter.js'

/** Bytes of a slot that were received and not taken yet. */
export interface Chunk {
  readonly slot: number
  readonly offset: number
  readonly length: number
}

/**
 * Receives into the beginning of a slot.
 * @returns bytes, 0 at the end, or -errno. Receives that are under way together fill their slots in the order of the calls.
 */
export type Receive = (slot: number, length: number) => Promise<number>

export interface InputOptions {
  readonly slots: Slots
  readonly receive: Receive
  /** Offset of the first byte, for errors; bytes. */
  readonly origin: number
  /** For errors: 'unix:/run/vm.sock', a path. */
  readonly name: string
  /** Receives queued at once. */
  readonly depth: number
  /** Shared by the connections of one transfer. */
  readonly pace: Pace
  readonly meter: WaitMeter
  /** Answers at once unless what came is to wait. */
  readonly pausePoint: () => Promise<void>
  /** Gets everything that comes, before anybody else; the bytes are the input's. */
  readonly tap?: (bytes: Uint8Array) => Promise<void>
}

/** A slot is handed on when it is full, or when nothing came for so long, milliseconds. */
const LINGER_MS = 2

/** Receives of a connection. */
export function fromStream({ engine }: Slots, stream: FileId): Receive {
  return (slot, length) => engine.receive(stream, length, slot, 0, LINGER_MS)
}

interface Received {
  readonly slot: number
  start: number
  readonly end: number
}

export class Input {
  readonly name: string
  readonly #options: InputOptions
  readonly #chunks: Received[] = []
  #position: number
  #received = 0
  /** Chunks in front that went through the tap. */
  #tapped = 0
  #order: Promise<void> = Promise.resolve()
  #outstanding = 0
  #filling = false
  #end: 'open' | 'ended' | Error = 'open'
  #closed = false
  #arrived: (() => void) | undefined

  constructor(options: InputOptions) {
    this.name = options.name
    this.#options = options
    this.#position = options.origin
    void this.#fill()
  }

  /** Where the cursor is: the origin and the bytes taken so far. */
  get position(): number {
    return this.#position
  }

  /** Bytes received so far. */
  get received(): number {
    return this.#received
  }

  /**
   * What is there to be taken in one piece; undefined at the end of the stream.
   * @throws IoError, Cancelled
   */
  async chunk(): Promise<Chunk | undefined> {
    await this.#options.pausePoint()
    for (;;) {
      const [first] = this.#chunks
      if (first !== undefined) {
        await this.#tap(1)
        return { slot: first.slot, offset: first.start, length: first.end - first.start }
      }
      if (!(await this.#more())) return undefined
    }
  }

  /** The cursor moves on within what chunk() gave. */
  take(length: number): void {
    this.#position += length
    for (let left = length; left > 0; ) {
      const [first] = this.#chunks
      if (first === undefined) throw new RangeError('more was taken than there was')
      const step = Math.min(left, first.end - first.start)
      first.start += step
      left -= step
      if (first.start < first.end) return
      this.#chunks.shift()
      this.#tapped -= 1
      this.#options.slots.give(first.slot)
    }
    if (this.#outstanding < this.#options.depth) void this.#fill()
  }

  /**
   * Reads a structure at the cursor and goes behind it. What the parser gives may be a view of a buffer that is used again:
   * it copies what is to stay.
   * @param what  for the error when the stream ends in it
   * @throws FormatError, IoError, Cancelled
   */
  async parse<T>(
    parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined,
    what: string,
  ): Promise<T> {
    const ready = this.#parseReady(parse)
    if (ready !== undefined) return ready.value
    for (let pieces = 1; ; pieces++) {
      while (this.#chunks.length < pieces) {
        if (!(await this.#more())) throw this.cutShort(what)
      }
      await this.#tap(pieces)
      const parsed = parse(this.#prefix(pieces), this.#position)
      if (parsed === undefined) continue
      this.take(parsed.length)
      return parsed.value
    }
  }

  /** What lies whole in the first chunk, as most of it does: streams of a stopped guest have tens of thousands of empty sections. */
  #parseReady<T>(parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined): Parsed<T> | undefined {
    if (this.#chunks.length === 0 || this.#tapped === 0) return undefined
    const parsed = parse(this.#prefix(1), this.#position)
    if (parsed !== undefined) this.take(parsed.length)
    return parsed
  }

  /** The next byte, which stays; undefined at the end of the stream. */
  async peek(): Promise<number | undefined> {
    const chunk = await this.chunk()
    return chunk === undefined ? undefined : this.#options.slots.bytes(chunk.slot)[chunk.offset]
  }

  /** Copies the next bytes. */
  async bytes(length: number, what: string): Promise<Uint8Array> {
    const copy = new Uint8Array(length)
    for (let done = 0; done < length; ) {
      const chunk = await this.chunk()
      if (chunk === undefined) throw this.cutShort(what)
      const step = Math.min(length - done, chunk.length)
      copy.set(this.#options.slots.bytes(chunk.slot).subarray(chunk.offset, chunk.offset + step), done)
      this.take(step)
      done += step
    }
    return copy
  }

  cutShort(what: string): FormatError {
    return new FormatError(`${this.name} ends at offset ${this.#position}, within ${what}`)
  }

  /** Receives no more and gives its buffers back. The stream is closed by its owner. */
  close(): void {
    this.#closed = true
    for (const { slot } of this.#chunks.splice(0)) this.#options.slots.give(slot)
    this.#arrived?.()
  }

  /** @returns whether there is more than before */
  async #more(): Promise<boolean> {
    const before = this.#received
    while (this.#received === before) {
      if (this.#closed) throw new Cancelled()
      if (this.#end instanceof Error) throw this.#end
      if (this.#end === 'ended') return false
      await new Promise<void>((resolve) => {
        this.#arrived = resolve
      })
    }
    return true
  }

  async #tap(pieces: number): Promise<void> {
    const { tap, slots } = this.#options
    for (; this.#tapped < pieces; this.#tapped++) {
      const next = this.#chunks[this.#tapped]
      if (tap !== undefined && next !== undefined)
        await tap(slots.bytes(next.slot).subarray(next.start, next.end))
    }
  }

  #prefix(pieces: number): Uint8Array {
    const view = ({ slot, start, end }: Received) => this.#options.slots.bytes(slot).subarray(start, end)
    const [first] = this.#chunks
    return pieces === 1 && first !== undefined ? view(first) : concat(this.#chunks.slice(0, pieces).map(view))
  }

  /** Queues receives as long as there are slots for them and the limit allows it. */
  async #fill(): Promise<void> {
    if (this.#filling) return
    this.#filling = true
    const { slots, pace, depth, meter } = this.#options
    while (!this.#closed && this.#end === 'open') {
      // With a limit one at a time: only what came is charged.
      if (this.#outstanding >= (pace.limited ? 1 : depth)) break
      if (this.#outstanding === 0) meter.begin(this)
      await pace.turn()
      const slot = await slots.take('receive')
      meter.end(this)
      if (this.#closed || this.#end !== 'open') slots.give(slot)
      else this.#receive(slot, pace.piece(slots.size))
    }
    if (this.#outstanding === 0 && this.#end === 'open') meter.begin(this)
    this.#filling = false
  }

  #receive(slot: number, length: number): void {
    this.#outstanding += 1
    const receiving = this.#options.receive(slot, length)
    this.#order = this.#order.then(async () => this.#took(slot, await receiving))
  }

  #took(slot: number, result: number): void {
    const { slots, pace } = this.#options
    this.#outstanding -= 1
    if (result > 0 && !this.#closed && this.#end === 'open') {
      this.#received += result
      pace.charge(result)
      this.#chunks.push({ slot, start: 0, end: result })
    } else slots.give(slot)
    if (result === 0 && this.#end === 'open') this.#end = 'ended'
    else if (result < 0 && this.#end === 'open')
      this.#end = -result === ECANCELED ? new Cancelled() : new IoError(-result, 'read', this.name)
    this.#arrived?.()
    void this.#fill()
  }
}
