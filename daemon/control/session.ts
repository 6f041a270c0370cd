// SPDX-License-Identifier: Apache-2.0
// Session: one client of the control socket, from its greeting to its end. Made by the control plane.
// It cuts bytes into JSON values, picks the dialect by the first one, and keeps flow control:
// - bytes are parsed in small slices and only while an answer can be stored, so what a client sends ahead waits as raw
//   bytes here (bounded) and then in its socket;
// - a turn takes a bounded number of requests, so that one busy client does not delay the others.
// Descriptors that come over the connection belong to the commands they were sent with (received.ts).
// After the client closed its sending side everything it sent is answered, then the connection is closed.

import type { Readable, Writable } from 'node:stream'
import { closeDescriptor } from '../../native/descriptors.js'
import { LocalSocket } from '../../native/local-socket.js'
import { type JsonItem, JsonStream } from '../../protocol/json-stream.js'
import type { JsonValue } from '../../protocol/json-value.js'
import type { EventText, Subscriber } from './broadcast.js'
import type { CommandCall, SessionInfo } from './commands.js'
import type { Dialect, DialectHost } from './dialect.js'
import type { Dispatcher } from './dispatch.js'
import { JsonRpcDialect } from './jsonrpc-dialect.js'
import { DEFAULT_OUTBOX_LIMITS, Outbox, type OutboxLimits } from './outbox.js'
import { QmpDialect } from './qmp-dialect.js'
import { ReceivedDescriptors } from './received.js'

/** Bytes parsed at a time: about 100 small requests. */
const SLICE = 4096
/** Work of one turn before others get theirs; a request costs 1, a slice 8. */
const TURN = 128
const SLICE_COST = 8
/** Raw bytes held unparsed before reading stops. */
const HELD = 256 * 1024

/** What a session needs of the control plane. */
export interface SessionOwner {
  readonly dispatcher: Dispatcher
  /** First line sent, with its end. */
  readonly greeting: string
  /** Line that tells `subscriber`'s dialect of lost events. */
  lostText(eventText: EventText, count: number): string
  subscribe(subscriber: Subscriber): void
  /** The session is over. */
  gone(session: Session, reason: string): void
}

export interface SessionStreams {
  readonly input: Readable
  readonly output: Writable
  /** Whether the output is closed after the last answer; stdio stays open for events. */
  readonly closes: boolean
}

export class Session implements DialectHost, Subscriber {
  readonly session: SessionInfo
  readonly #owner: SessionOwner
  readonly #streams: SessionStreams
  readonly #outbox: Outbox
  readonly #parser = new JsonStream()
  #dialect: Dialect
  #dialectKnown = false
  /** Raw bytes not yet parsed, oldest first. */
  #raw: Uint8Array[] = []
  #rawBytes = 0
  /** Parsed items not yet taken, from `#nextItem` on. */
  #items: JsonItem[] = []
  #nextItem = 0
  /** Bytes handed to the parser so far. */
  #parsed = 0
  readonly #received = new ReceivedDescriptors(closeDescriptor)
  /** For commands when no descriptor waits. */
  readonly #plainCall: CommandCall
  #held = false
  #paused = false
  #ended = false
  #finishing = false
  #closed = false
  #turnPlanned = false
  #pumping = false

  constructor(
    owner: SessionOwner,
    streams: SessionStreams,
    session: SessionInfo,
    limits: OutboxLimits = DEFAULT_OUTBOX_LIMITS,
  ) {
    this.#owner = owner
    this.#streams = streams
    this.session = session
    this.#plainCall = { session, takeDescriptor: () => undefined }
    this.#outbox = new Outbox(
      streams.output,
      {
        lostText: (count) => owner.lostText(this.eventText, count),
        onRoom: () => this.#planTurn(),
        onStalled: () => this.close('the client does not read'),
      },
      limits,
    )
    this.#dialect = new QmpDialect(this)
    this.#listen()
    this.#outbox.reply(owner.greeting)
    this.#outbox.flush()
  }

  get dispatcher(): Dispatcher {
    return this.#owner.dispatcher
  }

  get eventText(): EventText {
    return this.#dialect.eventText
  }

  event(text: string): void {
    this.#outbox.event(text)
  }

  reply(text: string): void {
    this.#outbox.reply(text)
  }

  subscribe(): void {
    this.#owner.subscribe(this)
  }

  wake(): void {
    if (!this.#pumping) this.#pump()
  }

  /** Calls back when everything queued was written, or the client is gone. */
  whenFlushed(call: () => void): void {
    this.#outbox.whenEmpty(call)
  }

  /** Drops the client at once. Commands it started go on; their answers go nowhere. */
  close(reason: string): void {
    if (this.#closed) return
    this.#closed = true
    this.#outbox.close()
    this.#received.closeAll()
    this.#raw = []
    this.#items = []
    this.#nextItem = 0
    this.#streams.input.destroy()
    if (this.#streams.output !== (this.#streams.input as unknown)) this.#streams.output.destroy()
    this.#owner.gone(this, reason)
  }

  #listen(): void {
    const { input, output } = this.#streams
    input.on('data', (bytes: Uint8Array) => {
      this.#raw.push(bytes)
      this.#rawBytes += bytes.length
      if (!this.#turnPlanned) this.#pump()
      else this.#control()
    })
    input.on('descriptors', (descriptors: readonly number[], position: number) => {
      this.#received.add(descriptors, position, this.#settled(position))
      this.#control()
    })
    input.on('end', () => {
      this.#ended = true
      this.#pump()
    })
    for (const stream of new Set([input, output])) {
      stream.on('error', (error: Error) => this.close(error.message))
    }
    output.on('close', () => this.close('closed'))
  }

  /** Takes requests as long as answers can be stored, one turn's worth at most. */
  #pump(): void {
    if (this.#closed) return
    this.#pumping = true
    let budget = TURN
    while (this.#dialect.ready() && !this.#outbox.full()) {
      if (budget <= 0) {
        this.#planTurn()
        break
      }
      const item = this.#items[this.#nextItem]
      if (item !== undefined) {
        this.#nextItem++
        budget--
        this.#take(item)
      } else if (this.#rawBytes > 0) {
        budget -= SLICE_COST
        this.#parseSlice()
      } else break
    }
    this.#pumping = false
    this.#outbox.flush()
    this.#control()
    this.#finishIfDone()
  }

  #planTurn(): void {
    if (this.#turnPlanned) return
    this.#turnPlanned = true
    setImmediate(() => {
      this.#turnPlanned = false
      this.#pump()
    })
  }

  #parseSlice(): void {
    const head = this.#raw[0] as Uint8Array
    const slice = head.subarray(0, SLICE)
    if (slice.length === head.length) this.#raw.shift()
    else this.#raw[0] = head.subarray(SLICE)
    this.#rawBytes -= slice.length
    this.#parsed += slice.length
    this.#items = this.#parser.push(slice)
    this.#nextItem = 0
  }

  #take(item: JsonItem): void {
    if (!this.#dialectKnown && item.kind === 'value') {
      this.#dialectKnown = true
      if (isJsonRpc(item.value)) this.#dialect = new JsonRpcDialect(this)
    }
    this.#dialect.take(item, this.#received.empty ? this.#plainCall : this.#callWithDescriptors())
  }

  #callWithDescriptors(): CommandCall {
    const end = this.#parsed
    return { session: this.session, takeDescriptor: () => this.#received.take(end) }
  }

  /** Every command in the first `position` bytes of the stream has begun. */
  #settled(position: number): boolean {
    return position === this.#parsed && this.#nextItem === this.#items.length && this.#dialect.begun()
  }

  /** Reads on or stops reading, by what is held unparsed. */
  #control(): void {
    if (this.#closed) return
    // Descriptors for commands that must wait their turn wait in the connection, where there is no room for them here.
    const hold = this.#received.full && !this.#settled(this.#parsed + this.#rawBytes)
    if (hold !== this.#held && this.#streams.input instanceof LocalSocket) this.#streams.input.hold(hold)
    this.#held = hold
    const stop = this.#rawBytes > HELD
    if (stop === this.#paused) return
    this.#paused = stop
    if (stop) this.#streams.input.pause()
    else this.#streams.input.resume()
  }

  #finishIfDone(): void {
    if (!this.#ended || !this.#streams.closes || this.#closed || this.#finishing) return
    if (this.#rawBytes > 0 || this.#nextItem < this.#items.length || !this.#dialect.idle()) return
    this.#finishing = true
    this.#outbox.whenEmpty(() => {
      if (!this.#closed) this.#streams.output.end()
    })
  }
}

function isJsonRpc(value: JsonValue): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (Array.isArray(value)) return value.some((member) => !Array.isArray(member) && isJsonRpc(member))
  return 'jsonrpc' in value
}
