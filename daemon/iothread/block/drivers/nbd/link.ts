// SPDX-License-Identifier: Apache-2.0
// What an NBD node has of its server: connections, one or, where the server lets several see the same, a few, and what
// happens when they are lost. Used by NbdDriver.
// Rules: a request waits for a connection only as long as the user allowed (reconnect-delay); without that it fails at
// once, and connecting goes on beside it. Silence is no error: a server may take its time. Who wants to leave ends
// connections that stay silent (hurry). A server that came back as another disk is not used.

import { setTimeout as delay } from 'node:timers/promises'
import { type Agreed, hasFlag } from '../../../../../protocol/nbd/agreed.js'
import { ALLOCATION } from '../../../../../protocol/nbd/contexts.js'
import { CommandError } from '../../../../errors.js'
import type { NbdTarget } from './address.js'
import { Connection, Lost } from './connection.js'
import { type Dialled, dial } from './dial.js'

/** For connecting and the handshake, milliseconds. */
const DIAL_MS = 30_000
/** Between two attempts, milliseconds: from the first on, doubling to the second. */
const PAUSE_MS = 50
const LONGEST_PAUSE_MS = 1000
/** Timers count no further, milliseconds. */
const LONGEST_TIMER_MS = 2 ** 31 - 1
/** Connections at most; more gave nothing in measurements of others (nbdcopy's default is 4 too). */
const MOST_CONNECTIONS = 4
/** Requests on every connection from which on another one is opened. */
const BUSY = 2

export interface LinkOptions {
  readonly target: NbdTarget
  /** How long requests wait for a lost connection to come back, milliseconds. */
  readonly reconnectMs: number
  /** A connection was lost, with nothing or something under way. */
  readonly onLost: () => void
  readonly log: (level: 'info' | 'warn', text: string) => void
}

export class Link {
  /** Of the first connection: what the node is. Later ones have to fit. */
  readonly agreed: Agreed
  readonly #options: LinkOptions
  readonly #leaving = new AbortController()
  readonly #connections: Connection[] = []
  /** Attempts to have a connection again. */
  #returning: Promise<void> | undefined
  /** When the last connection was lost; undefined while there is one. As performance.now(). */
  #lostAt: number | undefined
  #growing = false
  /** Fewer when the server did not take more. */
  #most: number
  /** Requests that wait for a connection; each looks for itself what came. */
  #waiting: (() => void)[] = []
  /** Requests do not wait for connections any more. */
  #impatient = false
  /** Looks whether the server is silent, for somebody who wants to leave. */
  #watch: NodeJS.Timeout | undefined

  /**
   * @param openMs  how long connecting is tried; 0: once
   * @throws CommandError
   */
  static async open(options: LinkOptions, openMs: number): Promise<Link> {
    const never = new AbortController().signal
    const end = performance.now() + openMs
    for (let pause = PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        const left = openMs > 0 ? Math.min(DIAL_MS, Math.max(1, end - performance.now())) : DIAL_MS
        return new Link(await dial(options.target, left, never), options)
      } catch (error) {
        const left = end - performance.now()
        if (left <= 0 || !(error instanceof CommandError)) {
          await options.target.tls?.close()
          throw error
        }
        await delay(Math.min(pause, left))
      }
    }
  }

  private constructor(first: Dialled, options: LinkOptions) {
    this.agreed = first.agreed
    this.#options = options
    this.#most = hasFlag(first.agreed.flags, 'CAN_MULTI_CONN') ? MOST_CONNECTIONS : 1
    this.#use(first)
  }

  /** Whether there is a connection now. */
  get connected(): boolean {
    return this.#connections.length > 0
  }

  /**
   * Does work on a connection; again on another one when it was lost and requests may wait.
   * @throws Lost, and what the work throws
   */
  async run<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    let end: number | undefined
    for (;;) {
      const connection = this.#pick() ?? (await this.#wait())
      try {
        return await work(connection)
      } catch (error) {
        if (!(error instanceof Lost) || this.#hurried) throw error
        end ??= performance.now() + this.#options.reconnectMs
        if (performance.now() >= end) throw error
      }
    }
  }

  /** Tries to have a connection again if there is none; waits for an attempt that begins now or later. */
  async revive(): Promise<void> {
    // One that is under way may have begun before the server came back.
    await this.#returning
    if (!this.connected && !this.#impatient) await this.#return()
  }

  /**
   * Somebody wants to leave: who waits for a connection waits no longer, and connections on which the server stays silent
   * for so long, with requests under way, are ended.
   * @param forGood  nor does anybody wait later
   */
  hurry(silentMs: number, forGood: boolean): void {
    if (forGood) {
      this.#impatient = true
      this.#leaving.abort(new Lost('the node is being closed'))
    }
    const since = performance.now()
    // Later requests are somebody else's: others may use the node without end.
    const under = this.#connections.map((one) => ({ one, newest: one.newest }))
    clearInterval(this.#watch)
    this.#watch = setInterval(() => {
      const now = performance.now()
      const busy = forGood
        ? this.#connections.filter(({ inFlight }) => inFlight > 0)
        : under.flatMap(({ one, newest }) => (one.isBusyWith(newest) ? [one] : []))
      for (const one of busy)
        if (now - Math.max(since, one.lastHeard) >= silentMs) one.giveUp('the server is silent')
      if (busy.length > 0 || forGood) return
      clearInterval(this.#watch)
      this.#watch = undefined
    }, silentMs / 4)
    this.#wake()
  }

  /** Requests do not wait for a connection now. */
  get #hurried(): boolean {
    return this.#impatient || this.#watch !== undefined
  }

  /** Whatever is under way fails with Lost. Resolves when the server was told, or after a second. */
  async close(): Promise<void> {
    this.#impatient = true
    this.#leaving.abort(new Lost('the node was closed'))
    clearInterval(this.#watch)
    for (const connection of this.#connections.splice(0)) connection.close()
    this.#wake()
    await this.#options.target.tls?.close()
  }

  /** The connection with the least to do. */
  #pick(): Connection | undefined {
    let best: Connection | undefined
    for (const one of this.#connections) if (best === undefined || one.inFlight < best.inFlight) best = one
    if (best !== undefined && best.inFlight >= BUSY && this.#connections.length < this.#most) this.#grow()
    return best
  }

  /** @throws Lost when there is none for as long as requests wait */
  async #wait(): Promise<Connection> {
    for (;;) {
      const found = this.#pick()
      if (found !== undefined) return found
      if (this.#impatient) throw new Lost('there is no connection')
      this.#startReturning()
      const until = (this.#lostAt ?? performance.now()) + this.#options.reconnectMs
      const left = until - performance.now()
      if (this.#hurried || left <= 0) throw new Lost('there is no connection')
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, LONGEST_TIMER_MS))
        this.#waiting.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  #wake(): void {
    for (const call of this.#waiting.splice(0)) call()
  }

  #startReturning(): void {
    // Never rejects: those who wait look for themselves.
    void this.#return()
  }

  /** One attempt, and others as long as requests may wait. */
  #return(): Promise<void> {
    this.#returning ??= this.#tryToReturn().finally(() => {
      this.#returning = undefined
    })
    return this.#returning
  }

  async #tryToReturn(): Promise<void> {
    for (let pause = PAUSE_MS; !this.#impatient; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      if (await this.#connect()) return
      const left = (this.#lostAt ?? 0) + this.#options.reconnectMs - performance.now()
      if (left <= 0) return
      await delay(Math.min(pause, left), undefined, { signal: this.#leaving.signal }).catch(() => undefined)
    }
  }

  #grow(): void {
    if (this.#growing || this.#impatient) return
    this.#growing = true
    void this.#connect().then((grown) => {
      this.#growing = false
      if (!grown) this.#most = Math.max(1, this.#connections.length)
    })
  }

  /** @returns whether there is one connection more */
  async #connect(): Promise<boolean> {
    try {
      const dialled = await dial(this.#options.target, DIAL_MS, this.#leaving.signal)
      const fits = this.#fits(dialled.agreed)
      if (fits && !this.#impatient) this.#use(dialled)
      else new Connection(dialled, () => undefined).close()
      if (!fits) this.#options.log('warn', 'the NBD server serves another disk now: it is not used')
      return this.connected
    } catch (error) {
      if (error instanceof Lost) return false
      if (!(error instanceof CommandError) && !isSystemError(error)) throw error
      this.#options.log('info', `no connection to the NBD server: ${error.message}`)
      return false
    }
  }

  #use(dialled: Dialled): void {
    const connection: Connection = new Connection(dialled, (why) => {
      this.#options.log('warn', `connection to the NBD server lost: ${why}`)
      const at = this.#connections.indexOf(connection)
      if (at >= 0) this.#connections.splice(at, 1)
      if (!this.connected) this.#lostAt ??= performance.now()
      this.#options.onLost()
    })
    this.#connections.push(connection)
    this.#lostAt = undefined
    this.#wake()
  }

  /** The same disk as at first, at least as able. */
  #fits({ size, flags, blockSizes, contexts }: Agreed): boolean {
    const first = this.agreed
    // Without base:allocation all is taken for data; bits of a bitmap cannot be guessed.
    const { context } = this.#options.target
    return (
      (context === ALLOCATION || contexts.some(({ name }) => name === context)) &&
      size === first.size &&
      hasFlag(flags, 'READ_ONLY') === hasFlag(first.flags, 'READ_ONLY') &&
      blockSizes.minimum <= first.blockSizes.minimum &&
      blockSizes.maximumPayload >= first.blockSizes.maximumPayload
    )
  }
}

/** The machine's limits: no descriptor, no memory. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'errno' in error
}
