// SPDX-License-Identifier: Apache-2.0
// Control plane: every session, their dispatcher and their events. Made by the composition root, which also hands it
// the connections; nothing here opens a socket or a file.

import type { Logger } from 'pino'
import { toText } from '../../protocol/json-text.js'
import { greeting, timestamp, type Version } from '../../protocol/qmp.js'
import { atMost } from '../common/deadline.js'
import { Broadcast, type EventText, type Subscriber } from './broadcast.js'
import type { EventSink, Handlers } from './commands.js'
import { Descriptors } from './descriptors.js'
import { EOL } from './dialect.js'
import { Dispatcher } from './dispatch.js'
import type { ClientSocket } from './listener.js'
import { DEFAULT_OUTBOX_LIMITS, type OutboxLimits } from './outbox.js'
import { Session, type SessionOwner, type SessionStreams } from './session.js'

/** Idle time after which the kernel asks a network client whether it is still there. */
const KEEP_ALIVE_MS = 60_000

export interface ControlOptions {
  readonly version: Version
  readonly log: Logger
  readonly limits?: OutboxLimits
}

export class ControlPlane implements SessionOwner {
  readonly dispatcher: Dispatcher
  readonly greeting: string
  /** What clients handed over. */
  readonly descriptors = new Descriptors()
  readonly #log: Logger
  readonly #limits: OutboxLimits
  readonly #broadcast = new Broadcast()
  readonly #sessions = new Set<Session>()
  #lastId = 0

  constructor(options: ControlOptions) {
    this.#log = options.log
    this.#limits = options.limits ?? DEFAULT_OUTBOX_LIMITS
    this.dispatcher = new Dispatcher(options.log)
    this.greeting = toText(greeting(options.version, ['oob'])) + EOL
  }

  /** Where handlers send events. */
  get events(): EventSink {
    return this.#broadcast
  }

  addHandlers(handlers: Handlers): void {
    this.dispatcher.add(handlers)
  }

  /** Number of clients now connected through `label`. */
  clients(label: string): number {
    let count = 0
    for (const session of this.#sessions) if (session.session.label === label) count++
    return count
  }

  /** Serves one connection until it ends. */
  serve(socket: ClientSocket, label: string): void {
    let peer = 'unix'
    if ('remoteAddress' in socket && socket.remoteAddress !== undefined) {
      peer = `${socket.remoteAddress}:${socket.remotePort}`
      socket.setNoDelay(true)
      socket.setKeepAlive(true, KEEP_ALIVE_MS)
    }
    this.serveStreams({ input: socket, output: socket, closes: true }, label, peer)
  }

  /** Serves a pair of streams, such as standard input and output. */
  serveStreams(streams: SessionStreams, label: string, peer: string): void {
    const info = { id: ++this.#lastId, label, peer }
    this.#sessions.add(new Session(this, streams, info, this.#limits))
    this.#log.info({ conn: info.id, label, peer }, 'client connected')
  }

  lostText(eventText: EventText, count: number): string {
    return eventText('x-events-lost', { count }, timestamp(Date.now()))
  }

  subscribe(subscriber: Subscriber): void {
    this.#broadcast.add(subscriber)
  }

  gone(session: Session, reason: string): void {
    this.#sessions.delete(session)
    this.#broadcast.delete(session)
    this.descriptors.forget(session.session)
    this.#log.info({ conn: session.session.id, reason }, 'client gone')
  }

  /** Writes out what is queued, then drops every client; those that do not read within `deadlineMs` lose the rest. */
  async closeAll(deadlineMs: number): Promise<void> {
    const flushed = [...this.#sessions].map(
      (session) => new Promise<void>((resolve) => session.whenFlushed(resolve)),
    )
    await atMost(Promise.all(flushed), deadlineMs)
    for (const session of this.#sessions) session.close('the daemon ends')
  }
}
