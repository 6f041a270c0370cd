// SPDX-License-Identifier: Apache-2.0
// Nodes of what the URLs of tickets name. Tickets for one file or export share a node, so that what is written under one is
// seen under the other, however its URL is written: files are known by device and inode once they are open. Used by Tickets.
// Rule: a file or export has one node. Who is the first to write to it has it opened anew for that, under those who read.

import { filePath, type TicketSpec } from '../../../protocol/http/json-body.js'
import { type NbdServer, parseNbdAddress } from '../../../protocol/nbd/uri.js'
import { CommandError } from '../../errors.js'
import type { Definition, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'

interface Shared {
  writable: boolean
  /** While it is being opened anew, to be written. */
  upgrade: Promise<void> | undefined
  /** What it was asked for by. */
  readonly names: Set<string>
  readonly opening: Promise<Node>
  /** Set when it is open: which one was opened before which, and the file it is. */
  opened: { readonly turn: number; readonly node: Node; readonly identity: string | undefined } | undefined
  users: number
}

/** A node in use; given back with release(). */
export interface NodeUser {
  readonly node: Node
  release(): Promise<void>
}

export class ImageNodes {
  readonly #graphs: Graphs
  readonly #shared = new Set<Shared>()
  #turns = 0

  constructor(graphs: Graphs) {
    this.#graphs = graphs
  }

  /** @throws CommandError when nothing of it can be opened */
  async use({ url, ops }: TicketSpec): Promise<NodeUser> {
    const writable = ops.includes('write')
    const name = nameOf(url)
    const used = this.#known(name, writable) ?? this.#begin(url, name, writable)
    used.users++
    let node: Node
    try {
      node = await used.opening
    } catch (error) {
      this.#leaveEarly(used)
      throw error
    }
    const same = this.#earlier(used)
    if (same?.opened === undefined) return this.#allow(used, node, writable)
    const { node: other } = same.opened
    same.names.add(name)
    same.users++
    try {
      await this.#leave(used, node)
    } catch (error) {
      await this.#leave(same, other)
      throw error
    }
    return this.#allow(same, other, writable)
  }

  /** @throws CommandError when it cannot be opened to be written; then it is given back */
  async #allow(shared: Shared, node: Node, writable: boolean): Promise<NodeUser> {
    try {
      if (writable && !shared.writable) await this.#makeWritable(shared, node)
    } catch (error) {
      await this.#leave(shared, node)
      throw error
    }
    return { node, release: () => this.#leave(shared, node) }
  }

  #makeWritable(shared: Shared, node: Node): Promise<void> {
    shared.upgrade ??= this.#graphs
      .makeWritable(node)
      .then(() => {
        shared.writable = true
      })
      .finally(() => {
        shared.upgrade = undefined
      })
    return shared.upgrade
  }

  /**
   * What is surely the same. A path may lead to another file by now, unless it is being opened at the moment; and whether it
   * may be written is known when it was opened so.
   */
  #known(name: string, writable: boolean): Shared | undefined {
    const isFile = name.startsWith('file:')
    return [...this.#shared].find(
      (each) =>
        each.names.has(name) && (!isFile || (each.opened === undefined && (each.writable || !writable))),
    )
  }

  #begin(url: string, name: string, writable: boolean): Shared {
    const opening = this.#open(url, writable).then((node) => {
      const identity = this.#graphs.directory.report(node)?.identity
      begun.opened = { turn: this.#turns++, node, identity }
      return node
    })
    const begun: Shared = {
      ...{ writable, names: new Set([name]), opening, opened: undefined, upgrade: undefined, users: 0 },
    }
    this.#shared.add(begun)
    return begun
  }

  /** Another one of the same file that was open before. */
  #earlier({ opened }: Shared): Shared | undefined {
    if (opened?.identity === undefined) return undefined
    const { turn, identity } = opened
    return [...this.#shared].find(
      (each) => each.opened !== undefined && each.opened.turn < turn && each.opened.identity === identity,
    )
  }

  async #leave(shared: Shared, node: Node): Promise<void> {
    if (!this.#leaveEarly(shared)) return
    if (this.#graphs.directory.has(node)) await this.#graphs.close(node)
  }

  /** @returns whether nobody uses it any more */
  #leaveEarly(shared: Shared): boolean {
    if (--shared.users > 0) return false
    this.#shared.delete(shared)
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

/** The same for all ways to write an address; paths are as they stand there. */
function nameOf(url: string): string {
  if (url.startsWith('file:')) return url
  const address = parseNbdAddress(url)
  return typeof address === 'string' ? url : JSON.stringify([address.server, address.exportName])
}

/** What is tried, in this order. */
function definitionsOf(url: string, writable: boolean): Definition[] {
  const common = { 'read-only': !writable, discard: 'unmap' }
  if (!url.startsWith('file:')) {
    const address = parseNbdAddress(url)
    if (typeof address === 'string') throw new CommandError(address)
    const { server, exportName } = address
    // Tickets that may ask for dirty extents share the node with others.
    return [{ driver: 'nbd', ...common, server: serverOf(server), export: exportName, 'lone-bitmap': true }]
  }
  const filename = filePath(url)
  const file = (driver: string, direct: boolean) => ({ driver, ...common, filename, cache: { direct } })
  return [file('file', true), file('host_device', true), file('file', false)]
}

function serverOf(server: NbdServer) {
  if (server.kind === 'unix') return { type: 'unix', path: server.path }
  return { type: 'inet', host: server.host, port: String(server.port) }
}
