// SPDX-License-Identifier: Apache-2.0
// Tickets of the images API: which there are, and which disk serves each. Used by ImagesService, which brings the questions
// of clients and managers, and by the handlers of export commands, whose images are tickets without an end.
// Invariant: what was done with a ticket is known where it is done. Until its image is opened, by its first request, that is
// here; from then on it is the worker of the disk, until the ticket has expired and its image is given up.

import type { Logger } from 'pino'
import type { TicketSpec } from '../../../protocol/http/json-body.js'
import { monotonicSeconds } from '../../common/clock.js'
import { atMost } from '../../common/deadline.js'
import { CommandError } from '../../errors.js'
import type { Answer, Question } from '../../images/messages.js'
import type { ExportBitmap } from '../../iothread/messages-bitmaps.js'
import type { ImageReport, ImageSpec } from '../../iothread/messages-images.js'
import type { Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { DiskWorker } from '../workers.js'
import { ImageClients } from './image-clients.js'
import type { ImageNodes, NodeUser } from './image-nodes.js'
import { leave, nameOf, newTicket, type OpenImage, type Ticket } from './ticket.js'
import { DONE, forbidden, INACTIVITY_S, refused, shown, unused } from './ticket-answers.js'

/** Whoever removes a ticket waits so long for its last request and its storage, milliseconds. */
const REMOVE_MS = 60_000

/** Where connections are when they are at no disk. */
export interface Front {
  /** @param fd  the receiver's from now on */
  take(connection: number, fd: number, rest: Uint8Array): void
  left(connection: number): void
}

export class Tickets {
  readonly #graphs: Graphs
  readonly #nodes: ImageNodes
  readonly #front: Front
  readonly #log: Logger
  readonly #tickets = new Map<string, Ticket>()
  /** Those that were replaced and whose requests end as they began. */
  readonly #retired = new Set<Ticket>()
  readonly #clients = new ImageClients()
  #keys = 0
  /** Address of the local service, as clients are told. */
  unixSocket: string | undefined
  removeMs = REMOVE_MS

  constructor(graphs: Graphs, nodes: ImageNodes, front: Front, log: Logger) {
    this.#graphs = graphs
    this.#nodes = nodes
    this.#front = front
    this.#log = log
  }

  find(id: string): Ticket | undefined {
    return this.#tickets.get(id)
  }

  /** Those of commands, oldest first. */
  exports(): Ticket[] {
    return [...this.#tickets.values()].filter(({ spec }) => spec === undefined)
  }

  answer(question: Question): Promise<Answer> | Answer {
    switch (question.kind) {
      case 'open':
        return this.#admit(question.ticket)
      case 'put':
        return this.#put(question.spec)
      case 'show':
        return this.#show(question.ticket)
      case 'extend':
        return this.#extend(question.ticket, question.timeout)
      case 'remove':
        return question.ticket === undefined ? this.#dropAll() : this.#remove(question.ticket)
      default:
        return question satisfies never
    }
  }

  /** A connection whose next request names a ticket that was let through. */
  handed(id: string, connection: number, fd: number, rest: Uint8Array): void {
    const ticket = this.#tickets.get(id)
    const image = ticket?.image
    const open = ticket !== undefined && image !== undefined && ticket.closing === undefined
    if (!open || !this.#clients.hasRoom(ticket)) {
      // Removed or expired meanwhile, or others were faster: it is asked for anew.
      this.#front.take(connection, fd, rest)
      return
    }
    this.#clients.begin(connection, ticket, image.worker)
    const { key } = ticket
    image.worker.request('image-connect', { key, connection, fd, rest }).catch(() => {
      if (this.#clients.end(connection)) this.#front.left(connection)
    })
  }

  report(report: ImageReport): void {
    if (report.kind === 'image-moved') {
      this.#moved(report.key, report.node)
      return
    }
    if (report.kind === 'image-expired') {
      this.#expired(report.key)
      return
    }
    const { connection, why, back } = report
    this.#clients.end(connection)
    if (why !== undefined) this.#log.info({ connection }, `images client lost: ${why}`)
    if (back === undefined) this.#front.left(connection)
    else this.#front.take(connection, back.fd, back.rest)
  }

  /** A worker has ended, and its nodes are forgotten. @returns the exports among them, which are gone */
  lost(worker: DiskWorker): Ticket[] {
    const gone: Ticket[] = []
    for (const connection of this.#clients.lost(worker)) this.#front.left(connection)
    for (const ticket of this.#all()) {
      if (ticket.image?.worker !== worker) continue
      // Its node is gone already.
      void ticket.image.user?.release()
      this.#closed(ticket)
      if (ticket.spec !== undefined) ticket.expires = monotonicSeconds() + ticket.spec.timeout
      else {
        this.#tickets.delete(ticket.id)
        gone.push(ticket)
      }
    }
    return gone
  }

  /** Serves a node by command. @throws CommandError, and nothing is left of it then */
  async addExport(id: string, node: Node, writable: boolean, bitmap?: ExportBitmap): Promise<void> {
    const { worker } = node
    if (worker === undefined) throw new CommandError(`Node '${node.name}' was lost`)
    const ticket = this.#enter(id, undefined, Number.POSITIVE_INFINITY)
    ticket.opening = this.#serve(ticket, node, undefined, {
      ...{ ops: writable ? ['read', 'write'] : ['read'], size: undefined, sparse: true, own: false },
      ...{ timeout: Number.POSITIVE_INFINITY, inactivityTimeout: INACTIVITY_S, filename: undefined },
      ...(bitmap !== undefined && { bitmap }),
    })
    try {
      await ticket.opening
    } catch (error) {
      this.#tickets.delete(id)
      throw error
    }
  }

  /** Stops serving a node; its clients are cut off. Resolves when nothing uses it any more. */
  async removeExport(ticket: Ticket): Promise<void> {
    ticket.cancel()
    await this.#end(ticket, true)
    if (this.#tickets.get(ticket.id) === ticket) this.#tickets.delete(ticket.id)
  }

  #enter(id: string, spec: TicketSpec | undefined, expires: number): Ticket {
    const ticket = newTicket(this.#keys++, id, spec, expires)
    this.#tickets.set(id, ticket)
    return ticket
  }

  /** Requests under way of a ticket that is replaced end as they began. */
  async #put(spec: TicketSpec): Promise<Answer> {
    const before = this.#tickets.get(spec.id)
    if (before !== undefined && (before.spec === undefined || before.canceled))
      return refused(409, 'the ticket cannot be replaced')
    this.#enter(spec.id, spec, monotonicSeconds() + spec.timeout)
    if (before !== undefined) await this.#retire(before)
    this.#log.info({ transfer: spec.transferId, ops: spec.ops }, 'ticket added')
    return DONE
  }

  async #show(id: string): Promise<Answer> {
    const ticket = this.#tickets.get(id)
    if (ticket?.spec === undefined) return refused(404, 'there is no such ticket')
    const { key, spec, image } = ticket
    // A worker that does not answer has ended, and what it knew with it.
    const asked = image?.worker.request('image-status', { key }).catch(() => undefined)
    const status = (await asked) ?? unused(ticket)
    return { kind: 'done', body: shown(spec, status) }
  }

  async #extend(id: string, timeout: number): Promise<Answer> {
    const ticket = this.#tickets.get(id)
    if (ticket?.spec === undefined) return refused(404, 'there is no such ticket')
    ticket.expires = monotonicSeconds() + timeout
    await ticket.image?.worker.request('image-extend', { key: ticket.key, timeout }).catch(() => undefined)
    return DONE
  }

  async #remove(id: string): Promise<Answer> {
    const ticket = this.#tickets.get(id)
    if (ticket?.spec === undefined) return DONE
    ticket.cancel()
    ticket.ending ??= this.#end(ticket, true).finally(() => {
      ticket.ending = undefined
    })
    let gone = false
    const ended = ticket.ending.then(() => {
      gone = true
    })
    await atMost(ended, this.removeMs)
    if (!gone && this.removeMs === 0) return DONE
    if (!gone) return refused(409, 'the ticket has requests under way that did not end in time')
    if (this.#tickets.get(id) === ticket) this.#tickets.delete(id)
    this.#log.info({ transfer: ticket.spec.transferId }, 'ticket removed')
    return DONE
  }

  async #dropAll(): Promise<Answer> {
    const told: Promise<void>[] = []
    for (const ticket of [...this.#tickets.values()]) {
      if (ticket.spec === undefined || ticket.canceled) continue
      this.#tickets.delete(ticket.id)
      told.push(this.#retire(ticket))
    }
    await Promise.all(told)
    return DONE
  }

  /** Requests under way end as they began. Resolves when no other one is let through. */
  async #retire(ticket: Ticket): Promise<void> {
    this.#retired.add(ticket)
    // A worker that has ended lets none through.
    const told = ticket.image?.worker
      .request('image-retire', { key: ticket.key })
      .catch(() => this.#log.debug({ key: ticket.key }, 'a ticket was replaced whose worker has ended'))
    void this.#end(ticket, false).finally(() => this.#retired.delete(ticket))
    await told
  }

  /** A request names this ticket; when it is the first, its image is opened. */
  async #admit(id: string): Promise<Answer> {
    const ticket = this.#tickets.get(id)
    if (ticket === undefined) return forbidden('there is no such ticket')
    if (ticket.canceled) return forbidden('it was canceled')
    if (!this.#clients.hasRoom(ticket))
      return refused(503, `the ticket has ${ticket.clients.size} connections, and there is no place for more`)
    if (ticket.closing !== undefined) {
      await Promise.race([ticket.closing, ticket.whenCanceled])
      // Another one may have its name by now, and its places be taken.
      return await this.#admit(id)
    }
    if (ticket.canceled) return forbidden('it was canceled')
    if (ticket.image !== undefined) return DONE
    if (monotonicSeconds() >= ticket.expires) return forbidden('it has expired')
    const { spec } = ticket
    using _place = this.#clients.reserve(ticket)
    try {
      if (spec !== undefined) ticket.opening ??= this.#open(ticket, spec)
      // Storage may take for ever; who has to wait for it is told when nobody wants that any more.
      await Promise.race([ticket.opening, ticket.whenCanceled])
      return ticket.canceled ? forbidden('it was canceled') : DONE
    } catch (error) {
      this.#log.warn({ transfer: spec?.transferId, err: error }, 'the image of a ticket could not be opened')
      return refused(500, 'the image cannot be opened')
    }
  }

  async #open(ticket: Ticket, spec: TicketSpec): Promise<void> {
    try {
      const user = await this.#nodes.use(spec)
      const { size, ops, sparse, dirty, timeout, inactivityTimeout = INACTIVITY_S, filename } = spec
      const how = { size, ops, sparse, dirty, timeout, inactivityTimeout, filename, own: true }
      await this.#serve(ticket, user.node, user, how)
    } catch (error) {
      ticket.opening = undefined
      throw error
    }
  }

  async #serve(
    ticket: Ticket,
    node: Node,
    user: NodeUser | undefined,
    how: Omit<ImageSpec, 'key' | 'id' | 'expires' | 'node' | 'unixSocket'>,
  ): Promise<void> {
    const { key, id, expires, left } = ticket
    const { name, worker } = node
    const serving = { node }
    ticket.serving = serving
    node.exports.add(nameOf(ticket))
    worker?.hold()
    try {
      if (worker === undefined) throw new CommandError(`Node '${name}' was lost`)
      const done = left === undefined ? {} : { done: left.done }
      const spec = { ...how, key, id, expires, node: name, unixSocket: this.unixSocket, ...done }
      await worker.request('image-add', spec)
      ticket.image = { node: serving.node, worker, user }
    } catch (error) {
      serving.node.exports.delete(nameOf(ticket))
      worker?.release()
      await user?.release()
      await this.#graphs.closeUnused([serving.node])
      throw error
    } finally {
      ticket.serving = undefined
    }
  }

  /** Resolves when nothing of it is under way any more, and nobody uses its image for it. */
  async #end(ticket: Ticket, stop: boolean): Promise<void> {
    await ticket.opening?.catch(() => undefined) // whoever asked for it was told
    await ticket.closing
    const { image, key, expires } = ticket
    if (image === undefined) return
    try {
      leave(ticket, await image.worker.request('image-end', { key, stop }), expires)
    } catch (error) {
      // Its worker has ended, and all it served with it; or the node could not be given back in order.
      this.#log.warn({ err: error }, 'an image was not closed in order')
    }
    await this.#giveUp(ticket, image)
  }

  /** Its image is open for nothing any more: a ticket that is extended after that has it opened again. */
  #expired(key: number): void {
    const ticket = [...this.#tickets.values()].find((each) => each.key === key)
    const image = ticket?.image
    if (ticket === undefined || ticket.closing !== undefined || ticket.canceled) return
    if (image === undefined) {
      // It has expired while it was opened; whoever wants it open is told when that fails.
      ticket.opening?.then(() => this.#expired(key)).catch(() => undefined)
      return
    }
    ticket.closing = this.#closeExpired(ticket, image).finally(() => {
      ticket.closing = undefined
    })
  }

  async #closeExpired(ticket: Ticket, image: OpenImage): Promise<void> {
    const { key, spec, expires } = ticket
    try {
      const left = await image.worker.request('image-expire', { key })
      if (left === null) return
      leave(ticket, left, expires)
      this.#log.info({ transfer: spec?.transferId }, 'ticket expired, its image is closed')
    } catch (error) {
      this.#log.warn({ err: error }, 'an image was not closed in order')
    }
    await this.#giveUp(ticket, image)
  }

  async #giveUp(ticket: Ticket, image: OpenImage): Promise<void> {
    if (ticket.image !== image) return
    this.#closed(ticket)
    await image.user?.release().catch((error: unknown) => {
      this.#log.warn({ err: error }, 'the image of a ticket was not closed in order')
    })
    await this.#graphs.closeUnused([image.node])
  }

  #closed(ticket: Ticket): void {
    const { image } = ticket
    ticket.image = undefined
    ticket.opening = undefined
    image?.node.exports.delete(nameOf(ticket))
    image?.worker.release()
  }

  #moved(key: number, name: string): void {
    const node = this.#graphs.directory.find(name)
    for (const ticket of this.#all()) {
      const served = ticket.image ?? ticket.serving
      if (ticket.key !== key || served === undefined || node === undefined) continue
      served.node.exports.delete(nameOf(ticket))
      served.node = node
      node.exports.add(nameOf(ticket))
    }
    void this.#graphs.closeUnused()
  }

  #all(): Ticket[] {
    return [...this.#tickets.values(), ...this.#retired]
  }
}
