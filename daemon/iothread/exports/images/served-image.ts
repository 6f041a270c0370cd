// SPDX-License-Identifier: Apache-2.0
// An image that is served over HTTP under one ticket: its claim on the node, its connections, its end. Made by ImageTable.
// Rule: a connection is here as long as its requests name this ticket; the first that names another takes it away.

import type { IoEngine } from '../../../../native/types.js'
import { type Clock, monotonicSeconds } from '../../../common/clock.js'
import { atMost } from '../../../common/deadline.js'
import { giveBack } from '../../../common/give-back.js'
import { CommandError } from '../../../errors.js'
import { HEAD_MS, LEAVE_MS } from '../../../http/limits.js'
import { serveRequests } from '../../../http/serve.js'
import { HttpStream } from '../../../http/stream.js'
import type { BitmapUse } from '../../block/bitmaps/bitmap-use.js'
import type { Claim } from '../../block/claims.js'
import { type DirtyLook, type Permissions, without } from '../../block/driver.js'
import type { Graph } from '../../block/graph.js'
import type { Guest } from '../../block/guests.js'
import type { BlockNode } from '../../block/node.js'
import type { ImageReport, ImageSpec, ImageStatus } from '../../messages-images.js'
import type { Lanes } from '../lanes.js'
import type { Holder, PiecePool } from '../piece-pool.js'
import { ImageAnswers } from './answers.js'
import type { ImageLane } from './lane.js'
import { Ticket } from './ticket.js'
import type { Turns } from './turns.js'

/** A lane is back by then unless its storage does not answer, milliseconds. */
const BACK_MS = 100

export interface ImageEnv {
  readonly graph: Graph
  readonly engine: IoEngine
  readonly pool: PiecePool
  readonly clock: Clock
  readonly lanes: Lanes
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
  /** What is told as dirty, where the export has a bitmap. */
  readonly #dirty: BitmapUse | undefined
  /** What its clients wait for, seen by whoever wants to leave them room. */
  readonly guest: Guest
  readonly #env: ImageEnv
  readonly #claim: Claim
  readonly #clients = new Map<number, Client>()
  /** Those that serve a client now. */
  readonly lanes = new Set<ImageLane>()
  #retired = false
  #freshening: Promise<void> | undefined
  /** When it is looked whether the ticket has expired, seconds; Infinity: not yet known. */
  #looksAt = Number.POSITIVE_INFINITY
  #stopLooking: () => void = () => undefined
  #waitsForIdle = false

  private constructor(spec: ImageSpec, claim: Claim, dirty: BitmapUse | undefined, env: ImageEnv) {
    this.ticket = new Ticket(spec, () => {
      // It ends when the ticket does, which nobody waits for.
      if (this.ticket.expires < this.#looksAt) void this.watchExpiry()
    })
    this.#dirty = dirty
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

  /** What is dirty from now on; undefined: nothing is known of that. */
  lookForDirt(): DirtyLook | undefined {
    if (this.#dirty !== undefined) return lookInto(this.#dirty)
    return this.ticket.spec.dirty === true ? this.node.driver.dirty?.() : undefined
  }

  /** Requests that name its ticket are not for it any more. */
  get retired(): boolean {
    return this.#retired
  }

  get clients(): number {
    return this.#clients.size
  }

  /** What lanes did is known when they are back; those that their storage keeps are not waited for. */
  async status(): Promise<ImageStatus> {
    await this.#lanesBack()
    const { active, canceled, expires, idleTime, transferred } = this.ticket
    return { active, canceled, connections: this.clients, expires, idleTime, transferred }
  }

  /** The ticket has expired, and nothing of it is under way. */
  get expired(): boolean {
    return !this.ticket.active && monotonicSeconds() >= this.ticket.expires
  }

  /** Reports it when the ticket has expired, from now on. */
  async watchExpiry(): Promise<void> {
    if (this.#waitsForIdle) return
    this.#waitsForIdle = true
    await this.ticket.idle()
    this.#waitsForIdle = false
    this.#stopLooking()
    this.#looksAt = Number.POSITIVE_INFINITY
    if (this.#retired || this.ticket.canceled || this.ticket.expires === Number.POSITIVE_INFINITY) return
    if (this.expired) this.#env.report({ kind: 'image-expired', key: this.ticket.spec.key })
    else {
      this.#looksAt = this.ticket.expires
      const leftMs = 1000 * (this.#looksAt - monotonicSeconds())
      this.#stopLooking = this.#env.clock.after(Math.max(1, leftMs), () => void this.watchExpiry())
    }
  }

  /** The ticket expires so many seconds from now; what lanes did was before that. */
  async extend(seconds: number): Promise<void> {
    await this.#lanesBack()
    this.ticket.extend(seconds)
  }

  async #lanesBack(): Promise<void> {
    if (this.lanes.size === 0) return
    await atMost(Promise.all([...this.lanes].map((lane) => lane.back())), BACK_MS)
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
    const answers = new ImageAnswers(this, this.#env, client)
    const served = await serveRequests(stream, answers)
    // Takes as long as a lane's storage does, and tells nobody anything: the ticket waits for what is lent.
    void answers.close()
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

  /** Looks anew at an image that others may have changed: one that was opened for its ticket, which only reads it. */
  async freshen(): Promise<void> {
    const { own, ops } = this.ticket.spec
    if (!own || ops.includes('write')) return
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
    for (const lane of this.lanes) lane.endSoon()
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
    this.#stopLooking()
    this.#env.graph.guests.leave(this.guest)
    await giveBack([() => this.#claim.release(), () => this.#dirty?.release()])
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

function lookInto({ bitmap }: BitmapUse): DirtyLook {
  return async (offset, length) => {
    const { bits } = bitmap
    // Of what a layer's bitmap does not reach nothing is known.
    const known = Math.min(length, bits.length - offset)
    return known > 0 ? bits.run(offset, offset + known) : { dirty: true, end: offset + length }
  }
}

/** What is served is not to be made shorter by other programs, nor overwritten by a new image. */
function permissions({ ops, own }: ImageSpec): Permissions {
  const changes = own ? (['write', 'resize'] as const) : (['write'] as const)
  return { use: ['consistent read', ...(ops.includes('write') ? changes : [])], share: without('resize') }
}
