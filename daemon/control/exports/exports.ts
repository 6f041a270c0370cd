// SPDX-License-Identifier: Apache-2.0
// Exports: nodes that are served to others, and the server they are served by. Keeps the table of exports, the workers of
// their nodes and what the NBD server offers in step. Used by the handlers of export commands.
// Invariant: an id and a name are taken from before an export is opened until after it is closed, and so long its node
// is in use.

import type { Logger } from 'pino'
import { hasFlag } from '../../../protocol/nbd/agreed.js'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'
import type { OfferedExport } from '../../../protocol/nbd/server-negotiation.js'
import { CommandError } from '../../errors.js'
import type { ExportSpec, Report, ServedFacts } from '../../iothread/messages.js'
import type { ExportBitmap } from '../../iothread/messages-bitmaps.js'
import type { EventSink } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { DiskWorker } from '../workers.js'
import type { Chosen, NbdService } from './nbd-service.js'

export interface ExportRequest {
  readonly id: string
  /** As clients ask for it. */
  readonly name: string
  readonly description: string
  readonly node: Node
  readonly writable: boolean
  readonly writethrough: boolean
  readonly allocationDepth: boolean
  readonly bitmaps: readonly ExportBitmap[]
}

export interface Export extends Omit<ExportRequest, 'node'> {
  /** Changed when another node takes its place. */
  node: Node
  readonly worker: DiskWorker
  /** 'opening': not offered yet. 'closing': not offered any more. */
  state: 'opening' | 'open' | 'closing'
  /** Set when it is open. */
  facts: ServedFacts | undefined
  /** Clients, by the number of their connection. */
  readonly clients: Set<number>
  /** Set when it is being removed. */
  removal: Promise<void> | undefined
  /** As it was offered last, bytes. */
  size: number
}

const { HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF } =
  transmissionFlags
const { CAN_MULTI_CONN, SEND_CACHE, SEND_FAST_ZERO } = transmissionFlags
const READS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_DF | CAN_MULTI_CONN | SEND_CACHE
const WRITES = SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO

export class Exports {
  readonly #directory: Directory
  readonly #service: NbdService
  readonly #events: EventSink
  readonly #log: Logger
  /** Called with a node that has lost an export; never rejects. */
  readonly #freed: (node: Node) => Promise<void>
  /** By id, oldest first. */
  readonly #exports = new Map<string, Export>()
  /** Set while the server is being stopped. */
  #stopping: Promise<void> | undefined

  constructor(
    directory: Directory,
    service: NbdService,
    events: EventSink,
    log: Logger,
    freed: (node: Node) => Promise<void>,
  ) {
    this.#log = log
    this.#freed = freed
    this.#directory = directory
    this.#service = service
    this.#events = events
  }

  all(): Export[] {
    return [...this.#exports.values()]
  }

  find(id: string): Export | undefined {
    return this.#exports.get(id)
  }

  async startServer(...server: Parameters<NbdService['start']>): Promise<void> {
    await this.#service.start(...server)
    // Some may be left of a server that was lost.
    await this.#offer()
  }

  /** Removes the exports first, their clients with them. */
  async stopServer(): Promise<void> {
    if (!this.#service.running) throw new CommandError('NBD server not running')
    this.#stopping ??= this.#stopServer().finally(() => {
      this.#stopping = undefined
    })
    await this.#stopping
  }

  /** An export that is being opened sees that and goes by itself. */
  async #stopServer(): Promise<void> {
    await Promise.all(this.all().map((each) => this.remove(each)))
    await this.#service.stop()
  }

  get #serving(): boolean {
    return this.#service.running && this.#stopping === undefined
  }

  /** The end of everything: nobody new is served, the server's socket goes. Workers end what clients they have. */
  async shutdown(): Promise<void> {
    await this.#service.end()
  }

  /** @throws CommandError, and nothing is left of it then */
  async add(request: ExportRequest): Promise<void> {
    const { id, name, node } = request
    if (!this.#serving) throw new CommandError('NBD server not running')
    if (this.all().some((each) => each.name === name))
      throw new CommandError(`NBD server already has export named '${name}'`)
    const { worker } = node
    if (worker === undefined) throw new CommandError(`Node '${node.name}' was lost`)
    const added: Export = {
      ...request,
      ...{ worker, state: 'opening', facts: undefined, clients: new Set(), removal: undefined, size: 0 },
    }
    this.#exports.set(id, added)
    node.exports.add(id)
    worker.hold()
    try {
      added.facts = await worker.request('export-add', specOf(request))
      added.state = 'open'
      // Stopped meanwhile, by another client: who stops the server removes its exports, and did not see this one.
      if (!this.#serving) {
        await worker.request('export-del', { id })
        throw new CommandError('NBD server not running')
      }
      await this.#offer()
    } catch (error) {
      this.#forget(added)
      await this.#freed(added.node)
      throw error
    }
  }

  /** A client that chose an export: its disk's worker serves it from now on. */
  chosen({ connection, fd, agreed, rest }: Chosen): boolean {
    const found = this.all().find((each) => each.name === agreed.exportName && each.state === 'open')
    // Its node may have been reopened read-only, or resized, since it was offered.
    if (found === undefined || (!hasFlag(agreed.flags, 'READ_ONLY') && !found.writable)) return false
    found.clients.add(connection)
    found.worker
      .request('export-connect', { id: found.id, connection, fd, agreed, rest })
      .catch(() => this.#left(found, connection))
    return true
  }

  report(report: Extract<Report, { kind: 'export-left' }>): void {
    const found = this.#exports.get(report.id)
    if (found === undefined) return
    this.#left(found, report.connection)
    const { id, connection, why } = report
    if (why !== undefined) this.#log.info({ export: id, connection }, `NBD client lost: ${why}`)
  }

  /** The worker serves another node in place of the one that was asked for. */
  moved({ id, node: name, facts }: Extract<Report, { kind: 'export-moved' }>): void {
    const found = this.#exports.get(id)
    const node = this.#directory.find(name)
    if (found === undefined || node === undefined) return
    const old = found.node
    old.exports.delete(id)
    found.node = node
    node.exports.add(id)
    void this.#freed(old)
    if (found.state === 'opening') return
    found.facts = facts
    if (found.state === 'open') void this.#offer()
  }

  /** The sizes of some nodes may have changed. */
  nodesChanged(): void {
    if (this.all().some((each) => each.state === 'open' && each.size !== this.#sizeOf(each)))
      void this.#offer()
  }

  /** A worker has ended, and what it served with it. */
  lost(worker: DiskWorker): void {
    for (const each of this.all()) {
      if (each.worker !== worker || each.state === 'opening') continue
      for (const connection of each.clients) this.#service.left(connection)
      this.#forget(each)
      this.#events.emit('BLOCK_EXPORT_DELETED', { id: each.id })
    }
    void this.#offer()
  }

  /**
   * Stops serving a node; clients are cut off. Resolves when nothing uses it any more and the event was sent, also when
   * that is being done already. Never rejects.
   */
  remove(found: Export): Promise<void> {
    if (found.state === 'opening') return Promise.resolve()
    found.removal ??= this.#remove(found)
    return found.removal
  }

  async #remove(found: Export): Promise<void> {
    found.state = 'closing'
    await this.#offer()
    try {
      await found.worker.request('export-del', { id: found.id })
    } catch (error) {
      // Its worker has ended, and all it served with it; or the node could not be given back in order.
      this.#log.warn({ export: found.id, err: error }, 'export was not closed in order')
    }
    if (!this.#forget(found)) return
    await this.#freed(found.node)
    this.#events.emit('BLOCK_EXPORT_DELETED', { id: found.id })
  }

  /** @returns false when that was done before */
  #forget(found: Export): boolean {
    if (this.#exports.get(found.id) !== found) return false
    this.#exports.delete(found.id)
    found.node.exports.delete(found.id)
    found.worker.release()
    return true
  }

  #left(found: Export, connection: number): void {
    if (found.clients.delete(connection)) this.#service.left(connection)
  }

  /** Never rejects. */
  async #offer(): Promise<void> {
    const offered: OfferedExport[] = []
    for (const each of this.all()) {
      const { facts, state, name, description, writable } = each
      if (state !== 'open' || facts === undefined) continue
      each.size = this.#sizeOf(each)
      const flags = READS | (writable ? WRITES : READ_ONLY)
      offered.push({ name, description, size: each.size, flags, ...facts })
    }
    try {
      await this.#service.offer(offered)
    } catch (error) {
      this.#log.debug({ err: error }, 'the NBD server has ended')
    }
  }

  #sizeOf({ node }: Export): number {
    return this.#directory.report(node)?.size ?? 0
  }
}

function specOf({ id, node, writable, writethrough, allocationDepth, bitmaps }: ExportRequest): ExportSpec {
  return { id, node: node.name, writable, writethrough, allocationDepth, bitmaps }
}
