// SPDX-License-Identifier: Apache-2.0
// What an image lies on, by the name a user gave: a file, a device, or the export of an NBD server. Decides which node is
// to be opened for it; talks to nobody.

import { formatNbdUri, type NbdAddress, parseNbdAddress } from '../../protocol/nbd/uri.js'
import type { CommandArguments } from './client.js'
import { failed, usage } from './status.js'

/** One end of a copy, or an image that is looked at. */
export interface End {
  /** As the user wrote it, for messages. */
  readonly name: string
  /** Absolute: the daemon's working directory is another. Of an export its URI. */
  readonly path: string
  readonly kind: 'file' | 'block' | 'missing' | 'nbd'
  /** Of an export. */
  readonly address?: NbdAddress
}

/** Whether a name is meant to be an export's; it may be no sound one. */
export function isExportName(name: string): boolean {
  return /^nbds?(\+unix)?:/i.test(name)
}

/**
 * The export that a name stands for; undefined: the name of a file. A file of such a name is `./nbd:…`.
 * @throws CliError for an address that is none, or that needs what is not there
 */
export function exportNamed(name: string): End | undefined {
  if (!isExportName(name)) return undefined
  const address = parseNbdAddress(name)
  if (typeof address === 'string') throw usage(address)
  if (address.tls) throw failed(`cannot open '${name}': connections are not encrypted in this version`)
  return { name, path: formatNbdUri(address), kind: 'nbd', address }
}

/** Driver and place of the node below every format. */
export function storageDefinition({ kind, path, address }: End): CommandArguments {
  if (address === undefined) return { driver: kind === 'block' ? 'host_device' : 'file', filename: path }
  const { server, exportName } = address
  return {
    driver: 'nbd',
    server:
      server.kind === 'unix'
        ? { type: 'unix', path: server.path }
        : { type: 'inet', host: server.host, port: String(server.port) },
    export: exportName,
  }
}
