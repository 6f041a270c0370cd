// SPDX-License-Identifier: Apache-2.0
// The NBD server as the main thread knows it: its worker while it runs, and which exports it was told of. Used by Exports.

import type { Logger } from 'pino'
import { closeDescriptor } from '../../../native/descriptors.js'
import type { OfferedExport } from '../../../protocol/nbd/server-negotiation.js'
import { CommandError } from '../../errors.js'
import type { NbdHandle, StartNbdWorker } from '../../nbd/handle.js'
import type { AuthzSpec, Report, ServerSpec } from '../../nbd/messages.js'
import { askToEnd, endThread, FAREWELL_MS } from '../farewell.js'

/** A client that chose an export. */
export type Chosen = Extract<Report, { kind: 'chosen' }>

export interface NbdServiceEvents {
  /** @returns whether the connection was taken; else it is closed here */
  chosen(chosen: Chosen): boolean
  /** The server ended though nobody asked. */
  lost(): void
}

export class NbdService {
  readonly #start: StartNbdWorker
  readonly #log: Logger
  readonly #events: NbdServiceEvents
  #worker: NbdHandle | undefined
  #rules: (() => AuthzSpec) | undefined
  /** A command starts or stops it. */
  #changing = false
  /** Of the next client: numbers go on when another server is started, some clients of the last one may be there still. */
  #connections = 0

  constructor(start: StartNbdWorker, log: Logger, events: NbdServiceEvents) {
    this.#start = start
    this.#log = log
    this.#events = events
  }

  get running(): boolean {
    return this.#worker !== undefined && !this.#changing
  }

  /**
   * @param rules  about clients, asked again when objects change; undefined: there are none
   * @throws CommandError when it runs, or cannot listen
   */
  async start(spec: Omit<ServerSpec, 'firstConnection' | 'authz'>, rules?: () => AuthzSpec): Promise<void> {
    if (this.#worker !== undefined) throw new CommandError('NBD server already running')
    const worker = this.#start('nbd')
    this.#worker = worker
    this.#rules = rules
    this.#changing = true
    worker.onReport((report) => this.#report(worker, report))
    worker.onExit((error) => this.#exit(worker, error))
    try {
      const more = { firstConnection: this.#connections, authz: rules?.() }
      const { port } = await worker.request('listen', { ...spec, ...more })
      this.#log.info({ address: spec.address, port }, 'NBD server listens')
    } catch (error) {
      await this.#end(worker)
      throw error
    } finally {
      this.#changing = false
    }
  }

  /** @throws CommandError when it does not run */
  async stop(): Promise<void> {
    const worker = this.#worker
    if (worker === undefined || this.#changing) throw new CommandError('NBD server not running')
    await this.#end(worker)
    this.#log.info('NBD server stopped')
  }

  /** Whatever it is doing: it ends. */
  async end(): Promise<void> {
    if (this.#worker !== undefined) await this.#end(this.#worker)
  }

  async offer(exports: readonly OfferedExport[]): Promise<void> {
    await this.#worker?.request('offer', { exports })
  }

  /** Rules about clients may be others now. Resolves when they apply; a server that starts is not waited for. */
  async rulesChanged(): Promise<void> {
    const rules = this.#rules?.()
    if (rules === undefined || this.#worker === undefined) return
    const applied = this.#worker.request('authorize', rules).catch(() => undefined) // it has ended
    if (!this.#changing) await applied
  }

  /** A client of an export has gone. */
  left(connection: number): void {
    this.#worker?.request('left', { connection }).catch(() => undefined) // the server has ended, and forgot it
  }

  async #end(worker: NbdHandle): Promise<void> {
    if (this.#worker !== worker) return
    this.#worker = undefined
    await askToEnd(worker, FAREWELL_MS, this.#log)
    await endThread(worker, this.#log)
  }

  #report(worker: NbdHandle, report: Report): void {
    if (report.kind === 'log') {
      this.#log[report.level](report.fields, report.text)
      return
    }
    this.#connections = Math.max(this.#connections, report.connection + 1)
    if (this.#worker !== worker || !this.#events.chosen(report)) {
      closeDescriptor(report.fd)
      this.left(report.connection)
    }
  }

  #exit(worker: NbdHandle, error: Error | undefined): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    this.#log.error({ err: error }, 'NBD server lost')
    this.#events.lost()
  }
}
