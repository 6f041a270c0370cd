// SPDX-License-Identifier: Apache-2.0
// The part of the export commands that is about nodes served over HTTP: their id is the ticket. Used by exports.ts.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { EventSink } from '../commands.js'
import type { Node } from '../directory.js'
import type { ImagesService } from '../exports/images-service.js'
import type { Ticket } from '../exports/ticket.js'
import type { Tickets } from '../exports/tickets.js'

type ImagesOptions = Extract<Arguments<'block-export-add'>, { type: 'x-images' }>

/** Characters of an id: it need not be an identifier, UUIDs may begin with a digit. */
const LONGEST_TICKET = 255

export function imageExports(images: ImagesService, tickets: Tickets, events: EventSink) {
  return {
    /** @param check  what holds for every export; @returns the node */
    async add(options: ImagesOptions, check: (options: ImagesOptions) => Node): Promise<void> {
      const { id, writable = false, writethrough = false, bitmap } = options
      if (id === '' || id.length > LONGEST_TICKET) throw new CommandError('Invalid block export id')
      if (writethrough)
        throw new CommandError("Parameter 'writethrough' is not for exports of type 'x-images'")
      if (!images.running) throw new CommandError('Images server not running')
      await tickets.addExport(id, check(options), writable, bitmap)
    },

    async remove(ticket: Ticket, mode: 'safe' | 'hard'): Promise<void> {
      if (ticket.canceled) throw new CommandError(`Export '${ticket.id}' is already shutting down`)
      if (ticket.clients.size > 0 && mode === 'safe')
        throw new CommandError(`export '${ticket.id}' still in use`)
      const busy = ticket.clients.size > 0
      const removed = tickets
        .removeExport(ticket)
        .then(() => events.emit('BLOCK_EXPORT_DELETED', { id: ticket.id }))
      // What clients have under way may take as long as the disk does; the event tells when it is over.
      if (!busy) await removed
    },

    /** Newest first. @param shown  name of a node as it is told */
    infos(shown: (node: Node) => string) {
      return tickets
        .exports()
        .reverse()
        .flatMap(({ id, image, canceled, clients }) => {
          if (image === undefined) return []
          const more = { 'shutting-down': canceled, 'x-clients': clients.size }
          return [{ id, type: 'x-images' as const, 'node-name': shown(image.node), ...more }]
        })
    },
  }
}
