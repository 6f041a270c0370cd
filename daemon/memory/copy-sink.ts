// SPDX-License-Identifier: Apache-2.0
// Sink for a stream that is stored as it came, byte for byte: a stream file, or a raw libvirt image behind its header. What
// is in it is only checked on the way (NullSink beside it); its bytes come through append().

import { Appender } from './appender.js'
import { NullSink } from './null-sink.js'
import type { Slots } from './slots.js'
import { PART_MARK, type TargetFile } from './target-file.js'

export interface CopySinkOptions {
  readonly slots: Slots
  readonly target: TargetFile
  /** Where the image begins in the file, bytes. */
  readonly offset: number
  readonly channels: number
  /** What stands before the stream. */
  readonly front: Uint8Array
}

export class CopySink extends NullSink {
  readonly #options: CopySinkOptions
  readonly #appender: Appender
  /** The first bytes, which are written last. */
  readonly #first = new Uint8Array(PART_MARK.length)
  #held = 0
  /** Bytes of the stream; undefined: all that came. */
  #length: number | undefined

  constructor(options: CopySinkOptions) {
    super(options.slots)
    this.#options = options
    const { slots, target, offset, channels } = options
    this.#appender = new Appender(slots, target.file, target.name, offset, channels)
  }

  /** To be called before the first append(). */
  async prepare(): Promise<void> {
    if (this.#options.front.length > 0) await this.append(this.#options.front)
  }

  /** Takes a copy. */
  async append(bytes: Uint8Array): Promise<void> {
    const holds = Math.min(this.#first.length - this.#held, bytes.length)
    if (holds === 0) return this.#appender.add(bytes)
    this.#first.set(bytes.subarray(0, holds), this.#held)
    await this.#appender.add(PART_MARK.subarray(this.#held, this.#held + holds))
    this.#held += holds
    await this.#appender.add(bytes.subarray(holds))
  }

  endsAfter(bytes: number): void {
    this.#length = bytes
  }

  override async finish(): Promise<void> {
    const { target, offset, front } = this.#options
    await this.#appender.flush()
    if (this.#length !== undefined) await target.endAt(offset + front.length + this.#length)
    await target.complete(this.#first)
  }

  override async abort(): Promise<void> {
    await this.#appender.drop()
    await this.#options.target.abort()
  }
}
