// SPDX-License-Identifier: Apache-2.0
// Clients that are with the images server itself: those whose requests no disk has. Used by ImagesServer.
// Rules: each service has places of its own, so that a flood of clients of one costs the others nothing. When all are taken,
// whoever keeps us waiting and came first makes room; who waits for us stays.

import type { Service } from '../../protocol/http/routes.js'
import type { HttpStream } from '../http/stream.js'

/** Clients at once. Tickets are the business of few. */
export const PLACES: Readonly<Record<Service, number>> = { remote: 1000, local: 1000, control: 100 }

export interface Newcomer {
  readonly service: Service
  readonly stream: Pick<HttpStream, 'waitsForClient' | 'close'>
}

export class Newcomers<Client extends Newcomer> {
  readonly #places: Readonly<Record<Service, number>>
  /** By number of the connection, first come first; who comes back from a disk comes last. */
  readonly #clients: Readonly<Record<Service, Map<number, Client>>> = {
    ...{ remote: new Map(), local: new Map(), control: new Map() },
  }

  constructor(places: Readonly<Record<Service, number>>) {
    this.#places = places
  }

  /** @returns false when there is no place, and nobody who would make room */
  add(connection: number, client: Client): boolean {
    const clients = this.#clients[client.service]
    if (clients.size >= this.#places[client.service] && !makeRoom(clients)) return false
    clients.set(connection, client)
    return true
  }

  /** @returns whether that client was there; one that made room was not any more */
  delete(connection: number, { service }: Client): boolean {
    return this.#clients[service].delete(connection)
  }

  all(): Client[] {
    return Object.values(this.#clients).flatMap((clients) => [...clients.values()])
  }
}

function makeRoom(clients: Map<number, Newcomer>): boolean {
  for (const [connection, { stream }] of clients) {
    if (!stream.waitsForClient) continue
    clients.delete(connection)
    stream.close()
    return true
  }
  return false
}
