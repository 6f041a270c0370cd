// SPDX-License-Identifier: Apache-2.0
// What an image lies on, by the name a user gave: a file, a device, or the export of an NBD server. Decides which node is
// to be opened for it; talks to nobody.

import { resolve } from 'node:path'
import { isJsonName } from '../../protocol/json-name.js'
import { formatNbdUri, type NbdAddress, parseNbdAddress } from '../../protocol/nbd/uri.js'
import { protocolOf } from '../common/image-name.js'
import { type Client, type CommandArguments, QmpError } from './client.js'
import { usage } from './status.js'
import { type TlsAsked, tlsAskedBy, withCredentials } from './tls.js'

const filePrefix = 'file:'
/** Bytes of the name of a Unix socket, unix(7). */
const LONGEST_SOCKET = 107

/** One end of a copy, or an image that is looked at. */
export interface End {
  /** As the user wrote it, for messages. */
  readonly name: string
  /** Absolute: the daemon's working directory is another. Of an export its URI. */
  readonly path: string
  readonly kind: 'file' | 'block' | 'missing' | 'nbd'
  /** Of an export. */
  readonly address?: NbdAddress
  /** Of an export that is reached by TLS: who opens a node on it adds these first (withCredentials). */
  readonly tls?: TlsAsked
  /** What an image given as options lies on besides. */
  readonly others?: readonly End[]
}

/** Whether a name is meant to be an export's; it may be no sound one. */
export function isExportName(name: string): boolean {
  return /^nbds?(\+unix)?:/i.test(name)
}

/**
 * The export that a name stands for; undefined: the name of a file. A file of such a name is `./nbd:…`.
 * @throws CliError for an address that is none, or that asks for TLS that cannot be
 */
export function exportNamed(name: string): End | undefined {
  if (!isExportName(name)) return undefined
  const parsed = parseNbdAddress(name)
  if (typeof parsed === 'string') throw usage(parsed)
  const { server, ...more } = parsed
  const address = {
    server: server.kind === 'unix' ? { ...server, path: socketPlace(server.path) } : server,
    ...more,
  }
  const tls = tlsAskedBy(name, address)
  return { name, path: formatNbdUri(address), kind: 'nbd', address, ...(tls !== undefined && { tls }) }
}

/**
 * A Unix socket as the daemon is to be told; one whose whole name is longer than the kernel takes stays relative. Names that
 * begin with a byte 0 are no paths, see unix(7).
 */
export function socketPlace(path: string): string {
  if (path.startsWith('\0')) return path
  const whole = resolve(path)
  return Buffer.byteLength(whole) <= LONGEST_SOCKET ? whole : path
}

/** Whether a name says that it is a path. */
export function isFileName(name: string): boolean {
  return name.startsWith(filePrefix)
}

/**
 * Path that a name stands for, `file:` before it taken off. A file of such a name is `./file:…`.
 * @throws CliError for options: only some commands take an image as such
 */
export function pathNamed(name: string): string {
  if (isJsonName(name)) throw usage(`expected a path, found options: '${name}'`)
  if (!isFileName(name)) return name
  const path = name.slice(filePrefix.length)
  // What is left must not be taken for more than a path in turn.
  return protocolOf(path) === undefined ? path : `./${path}`
}

/**
 * Adds a node on an image or export, with the credentials this needs.
 * @throws QmpError that names it, whatever the daemon said
 */
export async function addNode(client: Client, end: End, definition: CommandArguments): Promise<void> {
  try {
    await withCredentials(client, [end], () => client.execute('blockdev-add', definition))
  } catch (error) {
    if (!(error instanceof QmpError)) throw error
    const { command, errorClass, message, hint } = error
    const named = [end.name, end.path].some((name) => message.includes(name))
    throw named ? error : new QmpError(command, errorClass, `'${end.name}': ${message}`, hint)
  }
}

/** Driver and place of the node below every format. */
export function storageDefinition({ kind, path, address, tls }: End): CommandArguments {
  if (address === undefined) return { driver: kind === 'block' ? 'host_device' : 'file', filename: path }
  const { server, exportName } = address
  return {
    driver: 'nbd',
    server:
      server.kind === 'unix'
        ? { type: 'unix', path: server.path }
        : { type: 'inet', host: server.host, port: String(server.port) },
    export: exportName,
    'tls-creds': tls?.id,
    'tls-hostname': tls?.hostname,
  }
}
