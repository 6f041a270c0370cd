// SPDX-License-Identifier: Apache-2.0
// A QMP client for tests and the bench: requests with replies, events kept in order, every wait bounded.

import { connect, type Socket } from 'node:net'
import { pace, within } from './waiting.js'

export interface QmpEvent {
  readonly event: string
  readonly data: Readonly<Record<string, unknown>>
}

/** An error reply. */
export class QmpError extends Error {
  readonly class: string

  constructor(errorClass: string, description: string) {
    super(description)
    this.class = errorClass
  }
}

interface Waiter {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

const REPLY_MS = 120_000

export class QmpClient {
  /** Events that nobody waited for yet, oldest first. */
  readonly events: QmpEvent[] = []
  readonly #socket: Socket
  readonly #replies = new Map<number, Waiter>()
  #rest = ''
  #next = 1
  #wake: (() => void)[] = []
  #closed = false
  #greeted: (() => void) | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#take(text))
    socket.on('error', () => this.#end())
    socket.on('close', () => this.#end())
  }

  /** Connects, waits for the greeting and negotiates. Tries again while nobody listens yet, unless `gone` says that nobody will. */
  static async connect(path: string, timeoutMs = 60_000, gone?: AbortSignal): Promise<QmpClient> {
    const end = Date.now() + timeoutMs
    for (;;) {
      try {
        const client = await QmpClient.#open(path, timeoutMs)
        await client.execute('qmp_capabilities')
        return client
      } catch (cause) {
        if (Date.now() > end || gone?.aborted === true)
          throw new Error(`cannot connect to ${path}`, { cause })
        await pace(20)
      }
    }
  }

  static async #open(path: string, timeoutMs: number): Promise<QmpClient> {
    const socket = connect(path)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    const client = new QmpClient(socket)
    await within(
      new Promise<void>((resolve, reject) => {
        client.#greeted = resolve
        socket.once('close', () => reject(new Error('closed before the greeting')))
      }),
      timeoutMs,
      'greeting',
    )
    return client
  }

  get closed(): boolean {
    return this.#closed
  }

  /** @returns the `return` member; rejects with QmpError, or with an Error when the connection ends first. */
  async execute(name: string, args: object = {}, timeoutMs = REPLY_MS): Promise<unknown> {
    return await within(this.send(name, args), timeoutMs, `reply to ${name}`)
  }

  /** The same without a bound: for commands that are meant to stay stuck. The promise never rejects unseen. */
  send(name: string, args: object = {}): Promise<unknown> {
    const id = this.#next++
    const reply = new Promise<unknown>((resolve, reject) => {
      if (this.#closed) reject(new Error('connection closed'))
      else this.#replies.set(id, { resolve, reject })
    })
    reply.catch(() => undefined)
    if (!this.#closed) this.#socket.write(`${JSON.stringify({ execute: name, arguments: args, id })}\n`)
    return reply
  }

  /** The oldest event that fits, taken out of `events` together with nothing else. */
  async event(
    name: string,
    fits: (data: QmpEvent['data']) => boolean = () => true,
    timeoutMs = 120_000,
  ): Promise<QmpEvent> {
    const search = async (): Promise<QmpEvent> => {
      for (;;) {
        const at = this.events.findIndex((event) => event.event === name && fits(event.data))
        const found = this.events[at]
        if (found) {
          this.events.splice(at, 1)
          return found
        }
        if (this.#closed) throw new Error(`connection closed before ${name}`)
        await new Promise<void>((resolve) => this.#wake.push(resolve))
      }
    }
    return await within(search(), timeoutMs, `event ${name}`)
  }

  /** Waits until a job has the state; taken from its events. */
  async status(job: string, status: string, timeoutMs = 120_000): Promise<void> {
    await this.event('JOB_STATUS_CHANGE', (data) => data.id === job && data.status === status, timeoutMs)
  }

  close(): void {
    this.#socket.destroy()
    this.#end()
  }

  #take(text: string): void {
    const parts = (this.#rest + text).split('\n')
    this.#rest = parts.pop() ?? ''
    for (const line of parts) if (line.trim() !== '') this.#line(line)
    for (const wake of this.#wake.splice(0)) wake()
  }

  #line(line: string): void {
    const value: unknown = JSON.parse(line)
    if (!isRecord(value)) return
    if ('QMP' in value) this.#greeted?.()
    else if (typeof value.event === 'string') {
      this.events.push({ event: value.event, data: isRecord(value.data) ? value.data : {} })
    } else this.#reply(value)
  }

  #reply(value: Readonly<Record<string, unknown>>): void {
    const id = Number(value.id)
    const waiter = this.#replies.get(id)
    this.#replies.delete(id)
    const error = value.error
    if (isRecord(error)) waiter?.reject(new QmpError(String(error.class), String(error.desc)))
    else waiter?.resolve(value.return)
  }

  #end(): void {
    this.#closed = true
    for (const waiter of this.#replies.values()) waiter.reject(new Error('connection closed'))
    this.#replies.clear()
    for (const wake of this.#wake.splice(0)) wake()
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
