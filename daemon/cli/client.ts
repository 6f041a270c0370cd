// SPDX-License-Identifier: Apache-2.0
// A QMP client over one connected stream: greeting, negotiation, commands, events. Every command of cli/ talks through
// it. Replies come in the order of the requests, so they are matched by order as well as by id.
// Bytes are cut into values by protocol/json-stream: no rule about lines or chunks is relied on.

import type { Duplex } from 'node:stream'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import type { JsonObject, JsonValue } from '../../protocol/json-value.js'
import { asObject, numberOf, textOf } from './values.js'

/** The daemon refused a command. `message` is its text. */
export class QmpError extends Error {
  override readonly name = 'QmpError'

  constructor(
    readonly command: string,
    readonly errorClass: string,
    message: string,
    /** What the text does not name, for people. */
    readonly hint?: string,
  ) {
    super(message)
  }

  /** The text with what it does not name. */
  get whole(): string {
    return this.hint === undefined ? this.message : `${this.message}. ${this.hint}`
  }
}

/** The stream ended or broke, or what came over it was not QMP. Everything that waits is rejected with it. */
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost'
}

export interface QmpEvent {
  readonly name: string
  readonly data: JsonObject | undefined
  /** The event whole, as it came. */
  readonly value: JsonObject
}

/** Argument values of a command; members that are undefined are not sent. */
export interface CommandArguments {
  readonly [name: string]: ArgumentValue | undefined
}
export type ArgumentValue = JsonValue | CommandArguments | readonly ArgumentValue[]

interface Waiter {
  readonly id: number
  readonly command: string
  resolve(value: JsonValue): void
  reject(error: Error): void
}

export class Client {
  readonly #stream: Duplex
  readonly #parser = new JsonStream()
  readonly #waiters: Waiter[] = []
  readonly #eventListeners = new Set<(event: QmpEvent) => void>()
  readonly #lostListeners = new Set<(reason: ConnectionLost) => void>()
  #greeting: ((value: JsonObject) => void) | undefined
  #nextId = 1
  #lost: ConnectionLost | undefined

  /** Takes the stream over; `open` is the way in. */
  private constructor(stream: Duplex) {
    this.#stream = stream
    stream.on('data', (bytes: Uint8Array) => this.#take(bytes))
    stream.on('error', (cause: NodeJS.ErrnoException) => {
      const closed = cause.code === 'ECONNRESET' || cause.code === 'EPIPE'
      this.#lose(
        closed ? 'the daemon closed the connection' : `the connection broke: ${cause.message}`,
        cause,
      )
    })
    stream.on('end', () => this.#lose('the daemon closed the connection'))
    stream.on('close', () => this.#lose('the daemon closed the connection'))
  }

  /**
   * Waits for the greeting and negotiates.
   * @throws ConnectionLost when the stream ends first or the peer does not speak QMP
   */
  static async open(stream: Duplex): Promise<Client> {
    const client = new Client(stream)
    await new Promise<void>((resolve, reject) => {
      client.onLost(reject)
      client.#greeting = (value) => {
        if (asObject(value.QMP) === undefined) reject(client.#lose('the peer does not speak QMP'))
        resolve()
      }
    })
    await client.execute('qmp_capabilities')
    return client
  }

  /**
   * @returns what the command returned
   * @throws QmpError when it is refused, ConnectionLost when no answer can come any more
   */
  execute(command: string, args?: CommandArguments): Promise<JsonValue> {
    return this.#send(command, { execute: command, ...(args === undefined ? {} : { arguments: args }) })
  }

  /** Sends a request as its user wrote it; only `id` is ours. */
  executeRaw(request: JsonObject): Promise<JsonValue> {
    const command = textOf(request, 'execute') ?? textOf(request, 'exec-oob') ?? 'request'
    return this.#send(command, request)
  }

  /** @returns ends the listening */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#eventListeners.add(listener)
    return () => this.#eventListeners.delete(listener)
  }

  /** Called once, at once when the connection is already lost. @returns ends the listening */
  onLost(listener: (reason: ConnectionLost) => void): () => void {
    if (this.#lost !== undefined) listener(this.#lost)
    else this.#lostListeners.add(listener)
    return () => this.#lostListeners.delete(listener)
  }

  close(): void {
    this.#lose('the connection was closed')
  }

  #send(command: string, request: CommandArguments | JsonObject): Promise<JsonValue> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost)
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiters.push({ id, command, resolve, reject })
      this.#stream.write(`${toText({ ...request, id })}\n`)
    })
  }

  #take(bytes: Uint8Array): void {
    for (const item of this.#parser.push(bytes)) {
      const value = item.kind === 'value' ? asObject(item.value) : undefined
      if (value === undefined) {
        this.#lose('the peer does not speak QMP')
        return
      }
      this.#dispatch(value)
    }
  }

  #dispatch(value: JsonObject): void {
    if (this.#greeting !== undefined) {
      const greeting = this.#greeting
      this.#greeting = undefined
      greeting(value)
      return
    }
    const name = textOf(value, 'event')
    if (name !== undefined) {
      const event = { name, data: asObject(value.data), value }
      for (const listener of [...this.#eventListeners]) listener(event)
      return
    }
    this.#settle(value)
  }

  #settle(value: JsonObject): void {
    const id = numberOf(value, 'id')
    const index = this.#waiters.findIndex((waiter) => waiter.id === id)
    const error = asObject(value.error)
    if (index < 0) {
      this.#lose(`the daemon sent an answer nobody waits for${error ? `: ${textOf(error, 'desc')}` : ''}`)
      return
    }
    const [waiter] = this.#waiters.splice(index, 1)
    if (waiter === undefined) return
    if (error === undefined) waiter.resolve(value.return ?? null)
    else
      waiter.reject(
        new QmpError(
          waiter.command,
          textOf(error, 'class') ?? 'GenericError',
          textOf(error, 'desc') ?? 'no reason given',
          textOf(error, 'x-hint'),
        ),
      )
  }

  #lose(reason: string, cause?: Error): ConnectionLost {
    if (this.#lost !== undefined) return this.#lost
    const lost = new ConnectionLost(reason, cause === undefined ? undefined : { cause })
    this.#lost = lost
    this.#stream.destroy()
    for (const waiter of this.#waiters.splice(0)) waiter.reject(lost)
    for (const listener of [...this.#lostListeners]) listener(lost)
    this.#lostListeners.clear()
    return lost
  }
}
