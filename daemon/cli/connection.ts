// SPDX-License-Identifier: Apache-2.0
// Where a command finds its daemon: on a socket that is named, on the default one, or inside (embedded.ts).
// Whatever cannot be reached ends the command with exit status 3.

import { createConnection } from 'node:net'
import { Client } from './client.js'
import type { Daemon } from './daemon.js'
import { type EmbeddedOptions, embeddedDaemon } from './embedded.js'
import { noConnection } from './status.js'

export const defaultSocket = '/run/blockferry.sock'

/** What `--socket` says, else $BLOCKFERRY_SOCKET, else the default. */
export function socketPath(option: string | undefined): string {
  return option ?? process.env.BLOCKFERRY_SOCKET ?? defaultSocket
}

/** @param who  is to listen there. @throws CliError with status 3 */
export async function connectTo(path: string, who = 'blockferryd'): Promise<Daemon> {
  const stream = createConnection({ path })
  await new Promise<void>((resolve, reject) => {
    stream.once('connect', resolve)
    stream.once('error', (cause) => reject(noConnection(connectText(path, who, cause), { cause })))
  })
  stream.removeAllListeners('error')
  const client = await Client.open(stream).catch((cause: Error) => {
    throw noConnection(`cannot talk to ${who} at '${path}': ${cause.message}`, { cause })
  })
  return {
    client,
    socket: path,
    embedded: false,
    lastWords: () => undefined,
    close: async () => client.close(),
    kill: () => client.close(),
  }
}

/** `--socket embedded`, or no `--socket` at all, runs a daemon inside. */
export function connectOrEmbed(options: EmbeddedOptions & { readonly socket?: string }): Promise<Daemon> {
  const { socket } = options
  return socket === undefined || socket === 'embedded' ? embeddedDaemon(options) : connectTo(socket)
}

function connectText(path: string, who: string, cause: NodeJS.ErrnoException): string {
  const reasons: Record<string, string> = {
    ENOENT: `no such socket; is ${who} running?`,
    ECONNREFUSED: `nobody listens on it; is ${who} running?`,
    EACCES: 'permission denied',
    ENOTSOCK: 'it is not a socket',
  }
  return `cannot connect to '${path}': ${reasons[cause.code ?? ''] ?? cause.message}`
}
