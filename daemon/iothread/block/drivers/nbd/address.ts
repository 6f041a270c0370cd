// SPDX-License-Identifier: Apache-2.0
// Where an NBD node's server is, read from the node's options, and how it is shown to users. Pure.

import type { NbdServer } from '../../../../../protocol/nbd/uri.js'
import { CommandError } from '../../../../errors.js'
import type { NodeSpec } from '../../../messages.js'
import type { TlsClient } from './tls-client.js'

export interface NbdPlace {
  readonly server: NbdServer
  /** Empty: the server's default export. */
  readonly exportName: string
}

/** What a node connects to, and how. */
export interface NbdTarget extends NbdPlace {
  /** Name of the context that block status is about. */
  readonly context: string
  /** The server's dirty bitmap is asked for besides, if it offers exactly one. */
  readonly loneBitmap: boolean
  /** undefined: connections are not encrypted. */
  readonly tls: TlsClient | undefined
}

/** Bytes of a Unix socket's path at most, with its end. */
const PATH_ROOM = 108

/** @throws CommandError for what cannot be connected to */
export function placeOf(spec: NodeSpec): NbdPlace {
  return {
    server: serverOf(spec.server as ServerOption),
    exportName: (spec.export as string | undefined) ?? '',
  }
}

/** As the schema lets it pass. */
type ServerOption =
  | { readonly type: 'inet'; readonly host: string; readonly port: string }
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'vsock' | 'fd' }

function serverOf(option: ServerOption): NbdServer {
  switch (option.type) {
    case 'inet': {
      const { host, port } = option
      const number = /^\d{1,5}$/.test(port) ? Number(port) : 0
      if (number < 1 || number > 65535)
        throw new CommandError(`port '${port}' is not a number from 1 to 65535`)
      return { kind: 'inet', host, port: number }
    }
    case 'unix':
      if (Buffer.byteLength(option.path) >= PATH_ROOM)
        throw new CommandError(`UNIX socket path '${option.path}' is too long`)
      return { kind: 'unix', path: option.path }
    case 'vsock':
    case 'fd':
      throw new CommandError(`An NBD server is reached by 'inet' or 'unix', not by '${option.type}'`)
    default:
      return option satisfies never
  }
}

/** Who the server's certificate has to name; undefined where nobody said. */
export function hostnameOf(spec: NodeSpec, { server }: NbdPlace): string | undefined {
  const given = spec['tls-hostname'] as string | undefined
  return given ?? (server.kind === 'inet' ? server.host : undefined)
}

/** As errors name it. */
export function serverName(server: NbdServer): string {
  if (server.kind === 'unix') return server.path
  return server.host.includes(':') ? `[${server.host}]:${server.port}` : `${server.host}:${server.port}`
}

/** As users see it in the place of a file's name: the reference daemon's form, which always tells the port. */
export function nbdFilename(spec: NodeSpec): string {
  const { server, exportName } = placeOf(spec)
  const name = encodeURIComponent(exportName).replaceAll('%2F', '/')
  const path = name === '' ? '' : `/${name}`
  if (server.kind === 'inet') return `nbd://${serverName(server)}${path}`
  return `nbd+unix://${path}?socket=${encodeURIComponent(server.path).replaceAll('%2F', '/')}`
}
