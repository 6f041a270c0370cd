// SPDX-License-Identifier: Apache-2.0
// What is answered about tickets. Used by Tickets.

import type { TicketSpec } from '../../../protocol/http/json-body.js'
import { monotonicSeconds } from '../../common/clock.js'
import type { Answer } from '../../images/messages.js'
import type { ImageStatus } from '../../iothread/messages-images.js'
import type { Ticket } from './ticket.js'

/** A connection may make no progress so long where the ticket does not say, seconds. */
export const INACTIVITY_S = 60

export const DONE: Answer = { kind: 'done' }

type Waiting = Pick<Ticket, 'added' | 'expires' | 'canceled' | 'left'>

export function refused(status: number, message: string): Answer {
  return { kind: 'refused', status, message }
}

/** Says nothing of other tickets. */
export function forbidden(why: string): Answer {
  return refused(403, `the ticket does not allow this: ${why}`)
}

/** Of a ticket whose image is not open. */
export function unused({ expires, added, canceled, left }: Waiting): ImageStatus {
  const idleTime = monotonicSeconds() - (left?.since ?? added)
  const transferred = left?.done.total ?? 0
  return { active: false, canceled, connections: 0, expires, idleTime, transferred }
}

/** As the API shows a ticket. */
export function shown(spec: TicketSpec, status: ImageStatus): Readonly<Record<string, unknown>> {
  const {
    id,
    size,
    ops,
    timeout,
    url,
    sparse,
    dirty,
    inactivityTimeout = INACTIVITY_S,
    transferId,
    filename,
  } = spec
  const { active, canceled, connections, expires, idleTime, transferred } = status
  return {
    ...{ active, canceled, connections, expires: Math.floor(expires), idle_time: Math.floor(idleTime) },
    ...{ inactivity_timeout: inactivityTimeout, ops, size, sparse, dirty, timeout, url, uuid: id },
    transfer_id: transferId,
    ...(filename !== undefined && { filename }),
    ...(ops.length === 1 && { transferred }),
  }
}
