// SPDX-License-Identifier: Apache-2.0
// One channel of a QEMU that comes in with multifd: what goes out over it does so in turn. Used by MultifdSink.

import type { FilePart } from '../../native/stream-types.js'
import type { FileId } from '../../native/types.js'
import { IoError } from '../errors.js'
import type { FileBytes } from './file-bytes.js'
import type { Slots } from './slots.js'

export interface PacketBytes {
  readonly bytes: Uint8Array
  /** The pages, one behind the other. */
  readonly slotOffset: number
  readonly dataLength: number
}

export class Lane {
  readonly stream: FileId
  readonly #slots: Slots
  readonly #name: string
  #turn: Promise<void> = Promise.resolve()
  #heads: number | undefined
  /** Packets and other things in line. */
  waiting = 0

  constructor(slots: Slots, stream: FileId, name: string) {
    this.#slots = slots
    this.stream = stream
    this.#name = name
  }

  send(bytes: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#sendBytes(bytes))
  }

  /** The packets of one slot. */
  sendPackets(slot: number, packets: readonly PacketBytes[]): Promise<void> {
    return this.#inTurn(async () => {
      const { engine } = this.#slots
      this.#heads ??= await this.#slots.take('gather')
      const heads = this.#slots.bytes(this.#heads)
      let at = 0
      const sent: Promise<number>[] = []
      // All at once: the engine sends them in this order.
      for (const { bytes, slotOffset, dataLength } of packets) {
        heads.set(bytes, at)
        sent.push(engine.send(this.stream, bytes.length, this.#heads, at))
        sent.push(engine.send(this.stream, dataLength, slot, slotOffset))
        at += bytes.length
      }
      for (const result of await Promise.all(sent)) this.#checked(result)
    })
  }

  /**
   * Packets whose pages lie in a file.
   * @param heads  of all packets, not more than a slot
   */
  sendFile(file: FileBytes, heads: Uint8Array, parts: readonly FilePart[]): Promise<void> {
    return this.#inTurn(async () => {
      this.#heads ??= await this.#slots.take('gather')
      this.#slots.bytes(this.#heads).set(heads)
      this.#checked(await file.sendTo(this.stream, parts, this.#heads, 0))
    })
  }

  /** The peer has read all pages of files; it gets nothing more. */
  drain(): Promise<void> {
    return this.#inTurn(async () => this.#checked(await this.#slots.engine.drain(this.stream)))
  }

  idle(): Promise<void> {
    return this.#turn
  }

  drop(): void {
    if (this.#heads !== undefined) this.#slots.give(this.#heads)
    this.#heads = undefined
  }

  async #sendBytes(bytes: Uint8Array): Promise<void> {
    this.#heads ??= await this.#slots.take('gather')
    this.#slots.bytes(this.#heads).set(bytes)
    this.#checked(await this.#slots.engine.send(this.stream, bytes.length, this.#heads, 0))
  }

  #checked(result: number): void {
    if (result < 0) throw new IoError(-result, 'write', this.#name)
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.waiting += 1
    const done = this.#turn.then(work).finally(() => {
      this.waiting -= 1
    })
    this.#turn = done
    done.catch(() => undefined)
    return done
  }
}
