// SPDX-License-Identifier: Apache-2.0
// Packets of one multifd channel as they come, their pages apart from their heads, so that pages can be written from the slot
// they were received in. Takes the connection over from an Input when its hello has been read. Used by multifd-source.ts.

import type { ReceivedPackets } from '../../native/stream-types.js'
import type { FileId } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import { ECANCELED } from '../common/errno.js'
import { Cancelled, IoError } from '../errors.js'
import { type InputOptions, LINGER_MS } from './input.js'

/** What came at once. The slot belongs to whoever took it. */
export interface Packets extends ReceivedPackets {
  readonly slot: number
}

export interface PacketInputOptions extends Omit<InputOptions, 'receive' | 'tap' | 'origin' | 'first'> {
  readonly stream: FileId
  readonly pageSize: number
  /** Bytes that came before. */
  readonly position: number
}

export class PacketInput {
  readonly name: string
  readonly #options: PacketInputOptions
  readonly #packets: Packets[] = []
  #order: Promise<void> = Promise.resolve()
  #outstanding = 0
  /** Somebody has a slot of ours. */
  #lent = false
  #filling = false
  #received: number
  #position: number
  #end: 'open' | 'ended' | Error = 'open'
  #closed = false
  #arrived: (() => void) | undefined
  readonly #close = () => this.close()

  constructor(options: PacketInputOptions) {
    this.name = options.name
    this.#options = options
    this.#received = this.#position = options.position
    options.signal.addEventListener('abort', this.#close)
    void this.#fill()
  }

  /** Bytes received so far, all of the connection. */
  get received(): number {
    return this.#received
  }

  /** Behind what next() gave last. */
  get position(): number {
    return this.#position
  }

  /** The next ones, once those before are done with; undefined at the end of the stream. @throws IoError, Cancelled */
  async next(): Promise<Packets | undefined> {
    await this.#options.pausePoint()
    this.#lent = false
    void this.#fill()
    for (;;) {
      if (this.#closed) throw new Cancelled()
      const first = this.#packets.shift()
      if (first !== undefined) {
        this.#lent = true
        this.#position += first.length + first.heads.length
        return first
      }
      if (this.#end instanceof Error) throw this.#end
      if (this.#end === 'ended') return undefined
      await new Promise<void>((resolve) => {
        this.#arrived = resolve
      })
    }
  }

  /** Of what next() gave. */
  give(slot: number): void {
    this.#lent = false
    this.#options.slots.give(slot)
  }

  cutShort(what: string): FormatError {
    return new FormatError(`${this.name} ends at offset ${this.#received}, within ${what}`)
  }

  /** Receives no more and gives its buffers back. The stream is closed by its owner. */
  close(): void {
    this.#closed = true
    this.#options.signal.removeEventListener('abort', this.#close)
    for (const { slot } of this.#packets.splice(0)) this.#options.slots.give(slot)
    this.#arrived?.()
  }

  /** Queues receives as long as there are slots for them and the limit allows it. */
  async #fill(): Promise<void> {
    if (this.#filling) return
    this.#filling = true
    const { slots, pace, depth, share, meter } = this.#options
    while (!this.#closed && this.#end === 'open') {
      // With a limit one at a time: only what came is charged.
      if (this.#outstanding >= (pace.limited ? 1 : depth)) break
      if (this.#outstanding + this.#packets.length + (this.#lent ? 1 : 0) >= share) break
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
    const { slots, stream, pageSize } = this.#options
    this.#outstanding += 1
    const receiving = slots.engine.receivePackets(stream, length, slot, 0, LINGER_MS, pageSize)
    this.#order = this.#order.then(async () => this.#took(slot, await receiving))
  }

  #took(slot: number, result: ReceivedPackets | number): void {
    const { slots, pace } = this.#options
    this.#outstanding -= 1
    if (typeof result !== 'number' && !this.#closed && this.#end === 'open') {
      const bytes = result.length + result.heads.length
      this.#received += bytes
      pace.charge(bytes)
      this.#packets.push({ ...result, slot })
    } else slots.give(slot)
    if (typeof result === 'number' && this.#end === 'open') this.#end = this.#endOf(result)
    this.#arrived?.()
    void this.#fill()
  }

  #endOf(result: number): 'ended' | Error {
    if (result === 0) return 'ended'
    return -result === ECANCELED ? new Cancelled() : new IoError(-result, 'read', this.name)
  }
}
