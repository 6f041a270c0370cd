// SPDX-License-Identifier: Apache-2.0
// Answers to a source that opened a return path (capability return-path). It completes only when it is told that all is well,
// which it is when the image is durable: then nobody gives up a guest whose memory could still be lost.

import type { FileId } from '../../native/types.js'
import type { Command } from '../../protocol/migration/command.js'
import { isSince } from '../../protocol/migration/machine.js'
import { formatPong, formatShut, formatSwitchoverAck } from '../../protocol/migration/return-path.js'
import { IoError } from '../errors.js'
import type { Slots } from './slots.js'

/** Machine types of a QEMU that knows SWITCHOVER_ACK. */
const KNOWS_ACK = [8, 1] as const

export class ReturnPath {
  readonly #slots: Slots
  readonly #stream: FileId
  readonly #name: string
  #open = false

  /** @param name  for errors */
  constructor(slots: Slots, stream: FileId, name: string) {
    this.#slots = slots
    this.#stream = stream
    this.#name = name
  }

  /** The source waits for answers. */
  get isOpen(): boolean {
    return this.#open
  }

  async answer({ name, payload }: Command, machine: string): Promise<void> {
    if (name === 'PING') await this.#send(formatPong(payload))
    if (name !== 'OPEN_RETURN_PATH') return
    this.#open = true
    if (isSince(machine, KNOWS_ACK)) await this.#send(formatSwitchoverAck())
  }

  /** The image is safe. */
  async shut(): Promise<void> {
    if (this.#open) await this.#send(formatShut())
  }

  async #send(bytes: Uint8Array): Promise<void> {
    const slot = await this.#slots.take('gather')
    try {
      this.#slots.bytes(slot).set(bytes)
      const result = await this.#slots.engine.send(this.#stream, bytes.length, slot, 0)
      if (result < 0) throw new IoError(-result, 'write', this.#name)
    } finally {
      this.#slots.give(slot)
    }
  }
}
