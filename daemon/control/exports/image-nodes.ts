// SPDX-License-Identifier: Apache-2.0
// Nodes of what the URLs of tickets name. Tickets for one URL share a node, so that what is written under one is seen under
// the other. Used by Tickets.

import { filePath, type TicketSpec } from '../../../protocol/http/json-body.js'
import { parseNbdAddress } from '../../../protocol/nbd/uri.js'
import { CommandError } from '../../errors.js'
import type { Definition, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'

interface Shared {
  readonly writable: boolean
  readonly opening: Promise<Node>
  users: number
}

/** A node in use; given back with release(). */
export interface NodeUser {
  readonly node: Node
  release(): Promise<void>
}

export class ImageNodes {
  readonly #graphs: Graphs
  readonly #shared = new Map<string, Shared[]>()

  constructor(graphs: Graphs) {
    this.#graphs = graphs
  }

  /** @throws CommandError when nothing of it can be opened */
  async use({ url, ops }: TicketSpec): Promise<NodeUser> {
    const writable = ops.includes('write')
    const all = this.#shared.get(url) ?? []
    this.#shared.set(url, all)
    let shared = all.find((each) => each.writable || !writable)
    if (shared === undefined) {
      shared = { writable, opening: this.#open(url, writable), users: 0 }
      all.push(shared)
    }
    const used = shared
    used.users++
    try {
      const node = await used.opening
      return { node, release: () => this.#leave(url, used, node) }
    } catch (error) {
      this.#leaveEarly(url, used)
      throw error
    }
  }

  async #leave(url: string, shared: Shared, node: Node): Promise<void> {
    if (!this.#leaveEarly(url, shared)) return
    if (this.#graphs.directory.has(node)) await this.#graphs.close(node)
  }

  /** @returns whether nobody uses it any more */
  #leaveEarly(url: string, shared: Shared): boolean {
    if (--shared.users > 0) return false
    const all = this.#shared.get(url)?.filter((each) => each !== shared) ?? []
    if (all.length === 0) this.#shared.delete(url)
    else this.#shared.set(url, all)
    return true
  }

  /** Only storage can tell whether a path is a file or a device, and whether it can be read past the page cache. */
  async #open(url: string, writable: boolean): Promise<Node> {
    let first: unknown
    for (const definition of definitionsOf(url, writable)) {
      try {
        return await this.#graphs.open(definition, { kind: 'user' })
      } catch (error) {
        if (!(error instanceof CommandError)) throw error
        first ??= error
      }
    }
    throw first
  }
}

/** What is tried, in this order. */
function definitionsOf(url: string, writable: boolean): Definition[] {
  const common = { 'read-only': !writable, discard: 'unmap' }
  if (!url.startsWith('file:')) {
    const address = parseNbdAddress(url)
    if (typeof address === 'string') throw new CommandError(address)
    const { server, exportName } = address
    return [{ driver: 'nbd', ...common, server: serverOf(server), export: exportName }]
  }
  const filename = filePath(url)
  const file = (driver: string, direct: boolean) => ({ driver, ...common, filename, cache: { direct } })
  return [file('file', true), file('host_device', true), file('file', false)]
}

function serverOf(server: Exclude<ReturnType<typeof parseNbdAddress>, string>['server']) {
  if (server.kind === 'unix') return { type: 'unix', path: server.path }
  return { type: 'inet', host: server.host, port: String(server.port) }
}
