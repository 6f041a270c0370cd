// SPDX-License-Identifier: Apache-2.0
// Outbox: what waits to be written to one client. Used by its session (replies) and by the broadcast (events).
// Rules: nobody ever waits here. Replies are always taken (the session stops asking for more while `full`), events only
// while there is room: the others are counted, and the count is told as soon as the client reads again.
// A client that reads nothing for `stallMs` while it is over its limit is given up.

import type { Writable } from 'node:stream'

export interface OutboxLimits {
  /** Bytes waiting at which events are no longer taken. */
  readonly eventBytes: number
  /** Events waiting at most. */
  readonly events: number
  /** Bytes waiting at which the session should take no further request. */
  readonly replyBytes: number
  /** How long a client over a limit may read nothing, milliseconds. */
  readonly stallMs: number
}

export const DEFAULT_OUTBOX_LIMITS: OutboxLimits = {
  eventBytes: 4 * 2 ** 20,
  events: 4096,
  replyBytes: 2 ** 20,
  stallMs: 60_000,
}

export interface OutboxOwner {
  /** The line that tells of `count` lost events. */
  lostText(count: number): string
  /** There is room again after `full` was seen. */
  onRoom(): void
  /** Nothing was read for too long: the owner must drop the client. */
  onStalled(): void
}

/** Bytes per write: small enough that every finished write shows that the client reads. */
const CHUNK = 64 * 1024

interface Line {
  readonly text: string
  readonly event: boolean
}

export class Outbox {
  readonly #output: Writable
  readonly #limits: OutboxLimits
  readonly #owner: OutboxOwner
  #lines: Line[] = []
  /** Index of the first line not yet handed to the stream. */
  #next = 0
  /** Bytes of lines waiting and of the write under way. Lines are ASCII, so length is bytes. */
  #bytes = 0
  #events = 0
  #lost = 0
  #writing = false
  #flushWanted = false
  #sawFull = false
  #closed = false
  #stall: NodeJS.Timeout | undefined
  #onEmpty: (() => void)[] = []

  constructor(output: Writable, owner: OutboxOwner, limits: OutboxLimits = DEFAULT_OUTBOX_LIMITS) {
    this.#output = output
    this.#owner = owner
    this.#limits = limits
  }

  /** Whether the session should stop taking requests; `onRoom` follows. */
  full(): boolean {
    if (this.#bytes < this.#limits.replyBytes) return false
    this.#sawFull = true
    this.#watch()
    return true
  }

  /** Queues a reply, a line with its end. Written by the next flush. */
  reply(text: string): void {
    if (this.#closed) return
    this.#push({ text, event: false })
  }

  /** Queues an event, or counts it as lost. Written soon, together with what else comes in this turn. */
  event(text: string): void {
    if (this.#closed) return
    if (!this.#room(text)) {
      this.#lost++
      this.#watch()
      return
    }
    this.#tellLost()
    this.#push({ text, event: true })
    this.#flushSoon()
  }

  /** Hands waiting lines to the stream; one write at a time. */
  flush(): void {
    if (this.#writing || this.#closed) return
    if (this.#next === this.#lines.length) {
      for (const call of this.#onEmpty.splice(0)) call()
      return
    }
    const chunk = this.#takeChunk()
    this.#writing = true
    this.#output.write(chunk, 'latin1', (error) => {
      this.#writing = false
      if (error) this.close()
      else this.#written(chunk.length)
    })
  }

  /** Calls back when everything queued so far and later was written, or the client is gone. */
  whenEmpty(call: () => void): void {
    if (this.#closed) {
      call()
      return
    }
    this.#onEmpty.push(call)
    this.flush()
  }

  /** The client is gone: forget everything. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#lines = []
    this.#next = 0
    clearTimeout(this.#stall)
    for (const call of this.#onEmpty.splice(0)) call()
  }

  #room(text: string): boolean {
    return this.#events < this.#limits.events && this.#bytes + text.length <= this.#limits.eventBytes
  }

  #push(line: Line): void {
    this.#lines.push(line)
    this.#bytes += line.text.length
    if (line.event) this.#events++
  }

  #tellLost(): void {
    if (this.#lost === 0) return
    const text = this.#owner.lostText(this.#lost)
    this.#lost = 0
    this.#push({ text, event: true })
  }

  #takeChunk(): string {
    let chunk = ''
    while (this.#next < this.#lines.length) {
      const line = this.#lines[this.#next] as Line
      if (chunk !== '' && chunk.length + line.text.length > CHUNK) break
      chunk += line.text
      if (line.event) this.#events--
      this.#next++
    }
    if (this.#next === this.#lines.length) {
      this.#lines = []
      this.#next = 0
    } else if (this.#next > 1024) {
      this.#lines = this.#lines.slice(this.#next)
      this.#next = 0
    }
    return chunk
  }

  #written(bytes: number): void {
    if (this.#closed) return
    this.#bytes -= bytes
    clearTimeout(this.#stall)
    this.#stall = undefined
    if (this.#lost > 0 && this.#bytes * 2 <= this.#limits.eventBytes) this.#tellLost()
    this.flush()
    if (this.#sawFull && this.#bytes * 2 <= this.#limits.replyBytes) {
      this.#sawFull = false
      this.#owner.onRoom()
    } else if (this.#sawFull || this.#lost > 0) this.#watch()
  }

  #watch(): void {
    this.#stall ??= setTimeout(() => this.#owner.onStalled(), this.#limits.stallMs).unref()
  }

  #flushSoon(): void {
    if (this.#flushWanted) return
    this.#flushWanted = true
    queueMicrotask(() => {
      this.#flushWanted = false
      this.flush()
    })
  }
}
