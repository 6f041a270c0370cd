// SPDX-License-Identifier: Apache-2.0
// `blockferry serve`: lets NBD clients use an image for as long as the command runs. It runs a daemon of its own; with one
// that runs already, `nbd-server-start` and `block-export-add` do the same.

import { stat } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { formatNbdUri, type NbdServer } from '../../protocol/nbd/uri.js'
import { EIO, errnoNumber, errnoText } from '../common/errno.js'
import type { Client, CommandArguments } from './client.js'
import { type Format, findImage, warnIfRestricted } from './image.js'
import { Interrupt } from './interrupt.js'
import { withNodes } from './open-nodes.js'
import { failed, usage } from './status.js'

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
  /** Folder of certificates, or file of keys; absent: no TLS. */
  readonly tls?: string
  /** Clients need a certificate. */
  readonly verifyPeer: boolean
  /** Whose certificates are let in; empty: all that the CA signed. */
  readonly allow: readonly string[]
  readonly aio?: string
  readonly logLevel?: string
  readonly quiet: boolean
}

export async function serve(name: string, options: ServeOptions): Promise<void> {
  const server = serverOf(options)
  const secured = await securedBy(options)
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
    warnIfRestricted(image, how)
    for (const object of secured.objects) await client.execute('object-add', object)
    await client.execute('nbd-server-start', {
      addr: addressOf(server),
      'max-connections': options.shared,
      ...secured.server,
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
    const uri = formatNbdUri({
      server,
      exportName: options.name,
      tls: options.tls !== undefined,
      tlsQueries: {},
    })
    // Who has read the URI may interrupt at once.
    const ended = interrupted(client, () => daemon.kill())
    if (!options.quiet) process.stdout.write(`${uri}\n`)
    await ended
    await client.execute('nbd-server-stop')
  })
}

/** Objects for TLS, and what the server is told of them. */
interface Secured {
  readonly objects: readonly CommandArguments[]
  readonly server: CommandArguments
}

/** @throws CliError for options that do not go together, or a place of credentials that is none */
async function securedBy({ tls, verifyPeer, allow }: ServeOptions): Promise<Secured> {
  if (tls === undefined) {
    if (allow.length > 0 || !verifyPeer) throw usage('--tls-allow and --no-verify-peer need --tls')
    return { objects: [], server: {} }
  }
  const path = resolve(tls)
  const found = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    throw failed(`cannot open '${tls}': ${errnoText(errnoNumber(cause.code ?? '') ?? EIO)}`, { cause })
  })
  const common = { id: 'tls', endpoint: 'server' }
  if (!found.isDirectory()) {
    if (allow.length > 0 || !verifyPeer)
      throw usage(`--tls-allow and --no-verify-peer are about certificates, and '${tls}' is a file of keys`)
    const keys = { 'qom-type': 'tls-creds-psk', dir: dirname(path), 'x-file': basename(path) }
    return { objects: [{ ...common, ...keys }], server: { 'tls-creds': 'tls' } }
  }
  const certificates = { 'qom-type': 'tls-creds-x509', dir: path, 'verify-peer': verifyPeer, ...common }
  if (allow.length === 0) return { objects: [certificates], server: { 'tls-creds': 'tls' } }
  if (!verifyPeer) throw usage('--tls-allow and --no-verify-peer exclude each other')
  const rules = allow.map((match) => ({ match, policy: 'allow', format: 'glob' }))
  const authz = { 'qom-type': 'authz-list', id: 'authz', policy: 'deny', rules }
  return { objects: [certificates, authz], server: { 'tls-creds': 'tls', 'tls-authz': 'authz' } }
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
