// SPDX-License-Identifier: Apache-2.0
// HTTP connections that are at disks: under which ticket, and in whose worker. Used by Tickets.
// Invariant: each is held from begin() to end(), and its worker with it, also when the ticket has ended meanwhile: a worker
// that nobody holds is given to other disks, and what it says of old connections is heard by nobody.
// A ticket may have another connection while it has fewer than there are places left, so no ticket takes all of them: alone
// it gets half, the next half of what is left, and a few are for each however many there are.

import type { DiskWorker } from '../workers.js'

/** Connections at disks. */
const PLACES = 1000
/** Of one ticket, whatever others have. */
const APART = 8

/** Connections of one ticket. */
export interface ClientsOf {
  readonly clients: Set<number>
  /** Connections that may become some of them. */
  waiting: number
}

export class ImageClients {
  readonly #all = new Map<number, { readonly of: ClientsOf; readonly worker: DiskWorker }>()
  #waiting = 0

  /** Whether there is a place for another one. */
  hasRoom({ clients, waiting }: ClientsOf): boolean {
    const taken = clients.size + waiting
    return taken < APART || taken < PLACES - this.#all.size - this.#waiting
  }

  /** Takes a place for one that has to wait, until it is disposed. */
  reserve(of: ClientsOf): Disposable {
    of.waiting++
    this.#waiting++
    return {
      [Symbol.dispose]: () => {
        of.waiting--
        this.#waiting--
      },
    }
  }

  begin(connection: number, of: ClientsOf, worker: DiskWorker): void {
    worker.hold()
    of.clients.add(connection)
    this.#all.set(connection, { of, worker })
  }

  /** @returns false when it had ended before */
  end(connection: number): boolean {
    const found = this.#all.get(connection)
    if (found === undefined) return false
    this.#all.delete(connection)
    found.of.clients.delete(connection)
    found.worker.release()
    return true
  }

  /** A worker has ended, and its connections with it. @returns them */
  lost(worker: DiskWorker): number[] {
    const lost = [...this.#all].filter(([, each]) => each.worker === worker)
    return lost.map(([connection]) => connection).filter((connection) => this.end(connection))
  }
}
