// SPDX-License-Identifier: Apache-2.0
// An image that is served over HTTP under one ticket: its claim on the node, its connections, its end. Made by ImageTable.
// Rule: a connection is here as long as its requests name this ticket; the first that names another takes it away.

import type { IoEngine } from '../../../../native/types.js'
import type { Clock } from '../../../common/clock.js'
import { giveBack } from '../../../common/give-back.js'
import { CommandError } from '../../../errors.js'
import { HEAD_MS, LEAVE_MS } from '../../../http/limits.js'
import { serveRequests } from '../../../http/serve.js'
import { HttpStream } from '../../../http/stream.js'
import type { BitmapUse } from '../../block/bitmaps/bitmap-use.js'
import type { Claim } from '../../block/claims.js'
import { PERMISSIONS, type Permissions } from '../../block/driver.js'
import type { Graph } from '../../block/graph.js'
import type { Guest } from '../../block/guests.js'
import type { BlockNode } from '../../block/node.js'
import type { ImageReport, ImageSpec, ImageStatus } from '../../messages-images.js'
import type { Holder, PiecePool } from '../piece-pool.js'
import { ImageAnswers } from './answers.js'
import { Ticket } from './ticket.js'
import type { Turns } from './turns.js'

export interface ImageEnv {
  readonly graph: Graph
  readonly engine: IoEngine
  readonly pool: PiecePool
  readonly clock: Clock
  /** Those who make checksums. */
  readonly checksums: Turns
  report(report: ImageReport): void
  /** A disk said no, or a client was lost. */
  log(level: 'info' | 'warn', fields: Readonly<Record<string, unknown>>, text: string): void
  /** There is a connection more. */
  came(): void
  /** A connection has gone; the main thread was told. */
  left(): void
}

/** A connection, and what memory it has. */
interface Client extends Holder {
  readonly stream: HttpStream
  /** Resolves when it is here no more, and that was reported. */
  served: Promise<void>
}

export class ServedImage {
  readonly ticket: Ticket
  /** What is told as dirty; undefined: nothing is known of that. */
  readonly dirty: BitmapUse | undefined
  /** What its clients wait for, seen by whoever wants to leave them room. */
  readonly guest: Guest
  readonly #env: ImageEnv
  readonly #claim: Claim
  readonly #clients = new Map<number, Client>()
  #retired = false
  #freshening: Promise<void> | undefined

  private constructor(spec: ImageSpec, claim: Claim, dirty: BitmapUse | undefined, env: ImageEnv) {
    this.ticket = new Ticket(spec)
    this.dirty = dirty
    this.#claim = claim
    this.#env = env
    this.guest = env.graph.guests.join()
  }

  /** @throws CommandError when somebody else uses the node in a way that excludes it, or the bitmap cannot be used */
  static async open(spec: ImageSpec, env: ImageEnv): Promise<ServedImage> {
    const { graph } = env
    const node = graph.node(spec.node)
    await graph.freshen(spec.node)
    const claim = await graph.claim(`image '${spec.id.slice(0, 8)}…'`, node, permissions(spec), (to) =>
      env.report({ kind: 'image-moved', key: spec.key, node: to.name }),
    )
    try {
      return new ServedImage(spec, claim, await bitmapOf(spec, node, graph), env)
    } catch (error) {
      await claim.release()
      throw error
    }
  }

  get node(): BlockNode {
    return this.#claim.node
  }

  /** Bytes that may be read now. */
  get readable(): number {
    return Math.min(this.writable, this.node.length())
  }

  /** Whether what is written behind the end makes the node longer. */
  get grows(): boolean {
    const { driver } = this.node
    return this.ticket.spec.own && driver.can.resize && driver.grow !== undefined
  }

  /** Bytes that may be written. */
  get writable(): number {
    return this.ticket.spec.size ?? this.node.length()
  }

  /** Requests that name its ticket are not for it any more. */
  get retired(): boolean {
    return this.#retired
  }

  get clients(): number {
    return this.#clients.size
  }

  status(): ImageStatus {
    const { active, canceled, expires, idleTime, transferred } = this.ticket
    return { active, canceled, connections: this.clients, expires, idleTime, transferred }
  }

  /** Begins to serve a connection. @param fd  owned from now on */
  connect(connection: number, fd: number, rest: Uint8Array): void {
    let stream: HttpStream
    const idleMs = this.ticket.spec.inactivityTimeout * 1000
    try {
      stream = new HttpStream(fd, rest, { idleMs, headMs: HEAD_MS }, this.#env.clock)
    } catch (error) {
      const text = `a client could not be served: ${(error as Error).message}`
      throw new CommandError(text, 'GenericError', { cause: error })
    }
    const client: Client = { stream, held: 0, served: Promise.resolve() }
    this.#clients.set(connection, client)
    this.#env.came()
    client.served = this.#serve(connection, client)
  }

  async #serve(connection: number, client: Client): Promise<void> {
    const { stream } = client
    const served = await serveRequests(stream, new ImageAnswers(this, this.#env, client))
    this.#clients.delete(connection)
    const back = served.kind === 'foreign' ? stream.release() : undefined
    const why = served.kind === 'closed' ? served.why : undefined
    this.#env.report({
      ...{ kind: 'image-left', connection },
      ...(why !== undefined && { why }),
      ...(back !== undefined && { back }),
    })
    this.#env.left()
  }

  /** Makes a node that grows reach to the end of a range, just before that is written: it is as long as what came. */
  async reach(offset: number, length: number): Promise<void> {
    if (offset + length <= this.node.length() || !this.grows) return
    await this.node.withDriver(async (driver) => driver.grow?.(offset, length))
  }

  flush(): Promise<void> {
    return this.guest.during('flush', 0, () => this.node.flush())
  }

  /** Looks anew at an image that others may have changed: one that was opened for its ticket, to read it. */
  async freshen(): Promise<void> {
    if (!this.ticket.spec.own || !this.node.readOnly) return
    this.#freshening ??= Promise.resolve(this.node.driver.freshen?.()).finally(() => {
      this.#freshening = undefined
    })
    await this.#freshening
  }

  /** Nothing begins any more and what is under way is stopped; resolves when it has ended. */
  cancel(): Promise<void> {
    return this.ticket.cancel()
  }

  /** No request begins any more; resolves when those under way have ended. */
  retire(): Promise<void> {
    this.#retired = true
    return this.ticket.idle()
  }

  /**
   * After cancel() or retire(): the node goes back to its others, and connections to where they came from, each when its
   * client has taken its reply and sent what it owes of a request.
   */
  async close(): Promise<void> {
    this.#retired = true
    for (const { stream } of this.#clients.values()) stream.askBack()
    await this.#release()
  }

  /** After close(): resolves when no connection is left; who takes too long is cut off. */
  async left(): Promise<void> {
    const off = this.#env.clock.after(LEAVE_MS, () => this.cutOff())
    await this.#gone()
    off()
  }

  /** No client has any more time. */
  cutOff(): void {
    for (const { stream } of [...this.#clients.values()]) stream.close()
  }

  /** The end of everything. */
  async end(): Promise<void> {
    const canceled = this.ticket.cancel()
    this.cutOff()
    await canceled
    await this.#release()
    await this.#gone()
  }

  async #release(): Promise<void> {
    this.#env.graph.guests.leave(this.guest)
    await giveBack([() => this.#claim.release(), () => this.dirty?.release()])
  }

  async #gone(): Promise<void> {
    await Promise.all([...this.#clients.values()].map(({ served }) => served))
  }
}

async function bitmapOf({ bitmap, ops }: ImageSpec, node: BlockNode, graph: Graph) {
  const wanted = bitmap === undefined ? [] : [bitmap]
  const [found] = graph.bitmaps.forExport(node, wanted, ops.includes('write'))
  return found && (await graph.bitmaps.take(found.node, found.bitmap, true))
}

function permissions({ ops, own }: ImageSpec): Permissions {
  const changes = own ? (['write', 'resize'] as const) : (['write'] as const)
  return { use: ['consistent read', ...(ops.includes('write') ? changes : [])], share: PERMISSIONS }
}
