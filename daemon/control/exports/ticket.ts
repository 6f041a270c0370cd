// SPDX-License-Identifier: Apache-2.0
// A ticket as the main thread knows it. Changed by Tickets only.

import type { TicketSpec } from '../../../protocol/http/json-body.js'
import { monotonicSeconds } from '../../common/clock.js'
import type { ImageLeft } from '../../iothread/messages-images.js'
import type { Node } from '../directory.js'
import type { DiskWorker } from '../workers.js'
import type { NodeUser } from './image-nodes.js'

export interface Ticket {
  readonly key: number
  readonly id: string
  /** undefined: a node is served by command. */
  readonly spec: TicketSpec | undefined
  readonly added: number
  /** Seconds; the worker knows better while its image is open. */
  expires: number
  opening: Promise<void> | undefined
  /** While it is being opened on a node: another one may take its place by then. */
  serving: { node: Node } | undefined
  image: OpenImage | undefined
  /** While its image is given up because the ticket has expired. Never rejects. */
  closing: Promise<void> | undefined
  /** What was done before its image was given up, and since when nothing is. */
  left: ImageLeft | undefined
  /** No request is let through any more. */
  canceled: boolean
  readonly whenCanceled: Promise<void>
  cancel(): void
  /** While whoever removes it is waited for, or its storage. */
  ending: Promise<void> | undefined
  /** Connections its disk has. */
  readonly clients: Set<number>
  /** Connections that wait for its image to be opened. */
  waiting: number
}

export interface OpenImage {
  node: Node
  readonly worker: DiskWorker
  /** undefined: the node is there without the ticket. */
  readonly user: NodeUser | undefined
}

export function newTicket(key: number, id: string, spec: TicketSpec | undefined, expires: number): Ticket {
  let resolve: () => void = () => undefined
  const whenCanceled = new Promise<void>((given) => {
    resolve = given
  })
  const cancel = () => {
    ticket.canceled = true
    resolve()
  }
  const ticket: Ticket = {
    ...{ key, id, spec, added: monotonicSeconds(), expires, clients: new Set(), waiting: 0 },
    ...{ opening: undefined, serving: undefined, image: undefined, closing: undefined, left: undefined },
    ...{ canceled: false, whenCanceled, cancel, ending: undefined },
  }
  return ticket
}

/** Among the exports of a node. */
export function nameOf({ key }: Ticket): string {
  return `image ${key}`
}

/** Its image was closed. @param expires  as was known here before */
export function leave(ticket: Ticket, left: ImageLeft, expires: number): void {
  ticket.left = left
  // Unless it was extended meanwhile: the worker may not have heard of that.
  if (ticket.expires === expires) ticket.expires = left.expires
}
