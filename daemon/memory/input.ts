// SPDX-License-Identifier: Apache-2.0
// Bytes that come one behind the other, from a connection or a part of a file, with a cursor. Keeps several receives under
// way, so that the sender does not wait for JavaScript; who does not take what came lets the sender wait. Used by sources.

import type { FileId } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import { concat, type Parsed } from '../../protocol/migration/bytes.js'
import { ECANCELED } from '../common/errno.js'
import { Cancelled, IoError } from '../errors.js'
import { namedAs } from './named.js'
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
  /** Bytes that are received before goOn() is called; without it there is nothing to wait for. */
  readonly first?: number
  /** Slots it may hold, LEAST_SHARE or more; see Slots.shareOf(). */
  readonly share: number
  /** Shared by the connections of one transfer. */
  readonly pace: Pace
  /** Closes the input. */
  readonly signal: AbortSignal
  readonly meter: WaitMeter
  /** Answers at once unless what came is to wait. */
  readonly pausePoint: () => Promise<void>
  /** Gets everything that comes, before anybody else; the bytes are the input's. */
  readonly tap?: (bytes: Uint8Array) => Promise<void>
}

/** A slot is handed on when it is full, or when nothing came for so long, milliseconds. */
export const LINGER_MS = 2

/** Receives of a connection. */
export function fromStream({ engine }: Slots, stream: FileId): Receive {
  return (slot, length) => engine.receive(stream, length, slot, 0, LINGER_MS)
}

/** Bytes of a slot; what comes may be added to the last ones, as far as there is room. */
interface Received {
  readonly slot: number
  start: number
  /** Up to there they went through the tap, and may be taken. */
  shown: number
  end: number
}

export class Input {
  readonly name: string
  readonly #options: InputOptions
  readonly #chunks: Received[] = []
  #position: number
  #received = 0
  /** Bytes; undefined: all. */
  #first: number | undefined
  #order: Promise<void> = Promise.resolve()
  #outstanding = 0
  #filling = false
  #end: 'open' | 'ended' | Error = 'open'
  #closed = false
  #arrived: (() => void) | undefined
  readonly #close = () => this.close()

  constructor(options: InputOptions) {
    this.name = options.name
    this.#options = options
    this.#position = options.origin
    this.#first = options.first
    options.signal.addEventListener('abort', this.#close)
    void this.#fill()
  }

  /** Where the cursor is: the origin and the bytes taken so far. */
  get position(): number {
    return this.#position
  }

  /** Bytes taken so far. */
  get taken(): number {
    return this.#position - this.#options.origin
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
        return { slot: first.slot, offset: first.start, length: first.shown - first.start }
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
      const step = Math.min(left, first.shown - first.start)
      first.start += step
      left -= step
      if (first.start < first.end) return
      this.#chunks.shift()
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
    // A structure that reaches over more is copied out of its slots.
    const mostPieces = Math.max(1, Math.floor(this.#options.share / 8))
    let before: Uint8Array = new Uint8Array()
    for (let pieces = 1, seen = 0; ; ) {
      await this.#tap(pieces)
      if (this.#closed) throw new Cancelled()
      const prefix = this.#prefix(pieces, before)
      if (prefix.length > seen) {
        seen = prefix.length
        const parsed = namedAs(this.name, () => parse(prefix, this.#position - before.length))
        if (parsed !== undefined) {
          this.take(parsed.length - before.length)
          return parsed.value
        }
      } else if (seen - before.length === this.#left) {
        if (!(await this.#more())) throw this.cutShort(what)
      } else if (pieces < mostPieces) pieces = Math.min(pieces + 1, this.#chunks.length)
      else {
        // Slots may be what the rest waits for.
        const copied = prefix.slice()
        this.take(copied.length - before.length)
        before = copied
        pieces = 1
      }
    }
  }

  /** Receives what follows the first bytes. */
  goOn(): void {
    this.#first = undefined
    void this.#fill()
  }

  /** What lies whole in the first chunk, as most of it does: streams of a stopped guest have tens of thousands of empty sections. */
  #parseReady<T>(parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined): Parsed<T> | undefined {
    const [first] = this.#chunks
    if (first === undefined || first.shown === first.start) return undefined
    const bytes = this.#options.slots.bytes(first.slot).subarray(first.start, first.shown)
    const parsed = namedAs(this.name, () => parse(bytes, this.#position))
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
    const end = this.#options.origin + this.#received
    return new FormatError(`${this.name} ends at offset ${end}, within ${what}`)
  }

  /** Receives no more and gives its buffers back. The stream is closed by its owner. */
  close(): void {
    this.#closed = true
    this.#options.signal.removeEventListener('abort', this.#close)
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
    for (const next of this.#chunks.slice(0, pieces)) {
      const { shown, end } = next
      if (tap !== undefined && shown < end) await tap(slots.bytes(next.slot).subarray(shown, end))
      next.shown = end
    }
  }

  /** Bytes that were received and not taken. */
  get #left(): number {
    return this.#received - this.taken
  }

  /** A view where it can be one. */
  #prefix(pieces: number, before: Uint8Array): Uint8Array {
    const views = this.#chunks
      .slice(0, pieces)
      .map(({ slot, start, shown }) => this.#options.slots.bytes(slot).subarray(start, shown))
    const [first] = views
    return first !== undefined && views.length === 1 && before.length === 0
      ? first
      : concat([before, ...views])
  }

  /** Queues receives as long as there are slots for them and the limit allows it. */
  async #fill(): Promise<void> {
    if (this.#filling) return
    this.#filling = true
    const { slots, pace, depth, share, meter } = this.#options
    while (!this.#closed && this.#end === 'open' && this.#received !== this.#first) {
      // With a limit one at a time: only what came is charged. So it is as long as some bytes are not to be received.
      if (this.#outstanding >= (pace.limited || this.#first !== undefined ? 1 : depth)) break
      if (this.#outstanding + this.#chunks.length >= share) break
      if (this.#outstanding === 0) meter.begin(this)
      await pace.turn()
      const slot = await slots.take('receive')
      meter.end(this)
      if (this.#closed || this.#end !== 'open') slots.give(slot)
      else this.#receive(slot, pace.piece(Math.min(slots.size, (this.#first ?? Infinity) - this.#received)))
    }
    if (this.#outstanding === 0 && this.#end === 'open' && this.#received !== this.#first) meter.begin(this)
    this.#filling = false
  }

  #receive(slot: number, length: number): void {
    this.#outstanding += 1
    const receiving = this.#options.receive(slot, length)
    this.#order = this.#order.then(async () => this.#took(slot, await receiving))
  }

  /** Who sends little at a time must not fill all slots with it: what there is room for joins what came before. */
  #add(slot: number, length: number): void {
    const { slots } = this.#options
    const last = this.#chunks.at(-1)
    if (last === undefined || length > slots.size - last.end) {
      this.#chunks.push({ slot, start: 0, shown: 0, end: length })
      return
    }
    slots.bytes(last.slot).set(slots.bytes(slot).subarray(0, length), last.end)
    last.end += length
    slots.give(slot)
  }

  #took(slot: number, result: number): void {
    const { slots, pace } = this.#options
    this.#outstanding -= 1
    if (result > 0 && !this.#closed && this.#end === 'open') {
      this.#received += result
      pace.charge(result)
      this.#add(slot, result)
    } else slots.give(slot)
    if (result === 0 && this.#end === 'open') this.#end = 'ended'
    else if (result < 0 && this.#end === 'open')
      this.#end = -result === ECANCELED ? new Cancelled() : new IoError(-result, 'read', this.name)
    this.#arrived?.()
    void this.#fill()
  }
}
