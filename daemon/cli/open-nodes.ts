// SPDX-License-Identifier: Apache-2.0
// Nodes that a command opens in its daemon for as long as it runs. Used by the commands that look at images.

import { randomBytes } from 'node:crypto'
import { type CacheMode, isDirect, isUnsafe } from './cache-modes.js'
import { ConnectionLost, QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import type { Daemon } from './daemon.js'
import { DiskWords } from './disk-words.js'
import { addImage, type HowToOpen, type Image } from './image.js'
import { CliError, failed } from './status.js'

export class OpenNodes {
  readonly #daemon: Daemon
  readonly #tag = randomBytes(4).toString('hex')
  readonly #names: string[] = []
  readonly #words: DiskWords

  constructor(daemon: Daemon) {
    this.#daemon = daemon
    this.#words = new DiskWords(daemon)
  }

  /** A name for something of this command; others use the daemon too. */
  name(what: string): string {
    return `${what}-${this.#tag}`
  }

  /** @returns the node's name. @throws CliError that names the image */
  async open(image: Image, what: string, how: HowToOpen): Promise<string> {
    const name = this.name(what)
    try {
      const { client } = this.#daemon
      await addImage(client, image, name, how)
    } catch (error) {
      if (!(error instanceof QmpError)) throw error
      throw failed(cannotOpen(image.end.name, error), { cause: error })
    }
    this.#names.push(name)
    this.#words.called(name, image.end.name)
    return name
  }

  /** As open(), with O_DIRECT where the file system has it. */
  async openDirect(image: Image, what: string, how: Omit<HowToOpen, 'direct'>): Promise<string> {
    try {
      return await this.open(image, what, { ...how, direct: true })
    } catch (error) {
      if (!(error instanceof CliError) || !mayBeDirect(error)) throw error
      return await this.open(image, what, { ...how, direct: false })
    }
  }

  /** As openDirect(), or through the page cache. */
  async openCached(
    image: Image,
    what: string,
    how: Omit<HowToOpen, 'direct' | 'noFlush'>,
    mode: CacheMode,
  ): Promise<string> {
    if (isDirect(mode)) return await this.openDirect(image, what, how)
    return await this.open(image, what, { ...how, direct: false, noFlush: isUnsafe(mode) })
  }

  /** What the daemon tells of a node is what its image says now. @throws QmpError when another program changes it */
  async look(node: string): Promise<void> {
    // Asks for no extent: the node is in use for a moment, as by a reader.
    await this.#daemon.client.execute('x-node-map', { node, length: 0 })
  }

  /** An error as the user is to read it. */
  describe(error: unknown): unknown {
    if (error instanceof QmpError) return failed(this.#words.explain(error.whole), { cause: error })
    if (error instanceof CliError && error.message !== '')
      return new CliError(error.status, this.#words.explain(error.message), { cause: error })
    return error
  }

  /** Best effort: what is gone already stays so. Last opened first. */
  async close(): Promise<void> {
    this.#words.end()
    for (const name of this.#names.splice(0).reverse())
      await this.#daemon.client.execute('blockdev-del', { 'node-name': name }).catch(() => undefined)
  }
}

/** Runs what needs a daemon and nodes in it; both are let go of, however it ends. */
export async function withNodes<T>(
  options: Parameters<typeof connectOrEmbed>[0],
  work: (daemon: Daemon, nodes: OpenNodes) => Promise<T>,
): Promise<T> {
  const daemon = await connectOrEmbed(options)
  const nodes = new OpenNodes(daemon)
  try {
    return await work(daemon, nodes)
  } catch (error) {
    if (error instanceof ConnectionLost) {
      const whose = daemon.embedded ? 'the embedded daemon' : `the daemon at '${daemon.socket}'`
      throw failed(`${whose} is gone: ${daemon.lastWords() ?? error.message}`, { cause: error })
    }
    throw nodes.describe(error)
  } finally {
    await nodes.close()
    await daemon.close()
  }
}

/** The name once, be it in the daemon's words or before them. */
function cannotOpen(name: string, { whole }: QmpError): string {
  const prefix = `'${name}': `
  return `cannot open ${prefix}${whole.startsWith(prefix) ? whole.slice(prefix.length) : whole}`
}

/** File systems without O_DIRECT refuse the open with EINVAL. */
export function mayBeDirect(error: Error): boolean {
  return /O_DIRECT|Invalid argument/.test(error.message)
}
