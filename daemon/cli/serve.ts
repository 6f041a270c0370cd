// SPDX-License-Identifier: Apache-2.0
// `blockferry serve`: lets NBD clients use an image for as long as the command runs. It runs a daemon of its own; with one
// that runs already, `nbd-server-start` and `block-export-add` do the same.

import { resolve } from 'node:path'
import { formatNbdUri, type NbdServer } from '../../protocol/nbd/uri.js'
import type { Client } from './client.js'
import { type Format, findImage } from './image.js'
import { Interrupt } from './interrupt.js'
import { withNodes } from './open-nodes.js'
import { usage } from './status.js'

export interface ServeOptions {
  readonly format?: Format
  readonly imageOpts: boolean
  /** Path of the socket to listen at. */
  readonly socket?: string
  readonly port?: number
  readonly bind: string
  readonly name: string
  readonly description?: string
  readonly readOnly: boolean
  readonly cache: 'none' | 'writeback'
  /** Clients at once; 0: any number. */
  readonly shared: number
  readonly forceShare: boolean
  readonly aio?: string
  readonly logLevel?: string
  readonly quiet: boolean
}

export async function serve(name: string, options: ServeOptions): Promise<void> {
  const server = serverOf(options)
  const image = await findImage(name, options.format, options.imageOpts)
  const { aio, logLevel, readOnly, forceShare } = options
  const own = { ...(aio !== undefined && { aio }), ...(logLevel !== undefined && { logLevel }) }
  await withNodes(own, async (daemon, nodes) => {
    const { client } = daemon
    const how = { readOnly, forceShare, unmap: true }
    const node =
      options.cache === 'none'
        ? await nodes.openDirect(image, 'disk', how)
        : await nodes.open(image, 'disk', { ...how, direct: false })
    await client.execute('nbd-server-start', {
      addr: addressOf(server),
      'max-connections': options.shared,
    })
    await client.execute('block-export-add', {
      ...{
        type: 'nbd',
        id: nodes.name('export'),
        'node-name': node,
        name: options.name,
        writable: !readOnly,
      },
      ...(options.description !== undefined && { description: options.description }),
    })
    const uri = formatNbdUri({ server, exportName: options.name, tls: false, tlsQueries: {} })
    if (!options.quiet) process.stdout.write(`${uri}\n`)
    await interrupted(client, () => daemon.kill())
    await client.execute('nbd-server-stop')
  })
}

function serverOf({ socket, port, bind }: ServeOptions): NbdServer {
  if ((socket === undefined) === (port === undefined))
    throw usage('where to listen: either --socket PATH or --port NUMBER')
  if (socket !== undefined) return { kind: 'unix', path: resolve(socket) }
  if (port === undefined || port < 1 || port > 65535)
    throw usage(`--port expects a port number, 1 to 65535, found '${port}'`)
  return { kind: 'inet', host: bind, port }
}

function addressOf(server: NbdServer) {
  if (server.kind === 'unix') return { type: 'unix', data: { path: server.path } }
  return { type: 'inet', data: { host: server.host, port: String(server.port) } }
}

/** Resolves at the first signal: being ended is how this command ends well. A second one does not wait for storage. */
async function interrupted(client: Client, kill: () => void): Promise<void> {
  let end: () => void = () => undefined
  let lose: (reason: Error) => void = () => undefined
  const ended = new Promise<void>((resolve, reject) => {
    end = resolve
    lose = reject
  })
  const forget = client.onLost((reason) => lose(reason))
  const interrupt = new Interrupt(
    () => end(),
    (status) => {
      kill()
      process.exit(status)
    },
  )
  try {
    await ended
  } finally {
    forget()
    interrupt[Symbol.dispose]()
  }
}
