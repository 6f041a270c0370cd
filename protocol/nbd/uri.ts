// SPDX-License-Identifier: Apache-2.0
// Addresses of NBD exports: URIs, and QEMU's older form.
// Source: doc/uri.md of NetworkBlockDevice/nbd; QEMU 10.0, docs/system/qemu-block-drivers.rst.inc; tls-certificates,
// tls-psk-file and tls-username are libnbd's (nbd_connect_uri(3)).
//
//   nbd[s]://[user@]host[:port]/EXPORT[?tls-…]       nbd[s]+unix:///EXPORT?socket=PATH[&tls-…]
//   nbd:HOST:PORT[:exportname=EXPORT]                nbd:unix:PATH[:exportname=EXPORT]

import { quoted } from '../error-text.js'
import { utf8 } from './bytes.js'
import { DEFAULT_PORT, limits } from './constants.js'

export type NbdServer =
  /** `host` is a name or an address, an IPv6 one without its brackets. */
  | { readonly kind: 'inet'; readonly host: string; readonly port: number }
  /** A path that begins with NUL is an abstract name. */
  | { readonly kind: 'unix'; readonly path: string }

/** Keys are those of the query without `tls-`. What the values may be is for whoever makes the connection. */
export type TlsQueries = Readonly<Partial<Record<TlsKey, string>>>

const tlsKeys = ['type', 'hostname', 'username', 'verify-peer', 'certificates', 'psk-file'] as const
type TlsKey = (typeof tlsKeys)[number]

export interface NbdAddress {
  readonly server: NbdServer
  /** Empty: the server's default export. */
  readonly exportName: string
  /** The connection has to be encrypted. */
  readonly tls: boolean
  readonly tlsQueries: TlsQueries
}

const schemes: ReadonlyMap<string, { readonly unix: boolean; readonly tls: boolean }> = new Map([
  ['nbd', { unix: false, tls: false }],
  ['nbds', { unix: false, tls: true }],
  ['nbd+unix', { unix: true, tls: false }],
  ['nbds+unix', { unix: true, tls: true }],
])

/** RFC 3986, appendix B: scheme, authority, path, query, fragment. The class URL would take `..` out of names. */
const URI = /^([^:/?#]+):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/s

/** Leaves a parser with words; never leaves this file. */
class Wrong extends Error {}

/** @returns the address, or in words what is wrong with the text */
export function parseNbdAddress(text: string): NbdAddress | string {
  try {
    const address = /^nbd:(?!\/\/)/.test(text) ? parseLegacy(text) : parseUri(text)
    checkName(address.exportName)
    return address
  } catch (error) {
    if (error instanceof Wrong) return `${quoted(text)} is no NBD address: ${error.message}`
    throw error
  }
}

function parseUri(text: string): NbdAddress {
  const [, scheme = '', authority, path = '', query = '', fragment] = URI.exec(text) ?? []
  const kind = schemes.get(scheme.toLowerCase())
  if (kind === undefined || authority === undefined)
    throw new Wrong(`expected ${[...schemes.keys()].map((name) => `${name}://`).join(', ')} or nbd:`)
  if (fragment !== undefined) throw new Wrong('"#" in a name has to be written as %23')
  const queries = parseQueries(query)
  const { user, ...server } = kind.unix ? unixServer(authority, queries) : inetServer(authority, queries)
  if (user !== undefined) queries.set('tls-username', user)
  return {
    server: server.server,
    exportName: decoded(path.replace(/^\//, ''), 'export name'),
    tls: kind.tls,
    tlsQueries: tlsQueriesOf(queries),
  }
}

interface FoundServer {
  readonly server: NbdServer
  readonly user?: string
}

function unixServer(authority: string, queries: Map<string, string>): FoundServer {
  if (authority !== '')
    throw new Wrong(`host ${quoted(authority)} with a Unix socket: expected three slashes`)
  const path = queries.get('socket')
  if (path === undefined || path === '') throw new Wrong('query "socket" with a path is missing')
  queries.delete('socket')
  return { server: { kind: 'unix', path } }
}

/** [user@]host[:port], where host may be an IPv6 address in brackets, or be missing: localhost. */
function inetServer(authority: string, queries: ReadonlyMap<string, string>): FoundServer {
  if (queries.has('socket')) throw new Wrong('query "socket" needs nbd+unix:// or nbds+unix://')
  const match = /^(?:([^@]*)@)?(?:\[([^\]]*)\]|([^:@[\]]*))(?::(\d*))?$/.exec(authority)
  if (match === null) throw new Wrong(`host ${quoted(authority)}, expected HOST, HOST:PORT or [V6]:PORT`)
  const [, user, v6, name = '', port] = match
  const host = decoded(v6 ?? (name === '' ? 'localhost' : name), 'host')
  const server = { kind: 'inet', host, port: portIn(port || String(DEFAULT_PORT)) } as const
  return user === undefined ? { server } : { server, user: decoded(user, 'user') }
}

function portIn(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  if (port > 0 && port < 65536) return port
  throw new Wrong(`port ${quoted(text)}, expected 1 to 65535`)
}

function parseQueries(query: string): Map<string, string> {
  const queries = new Map<string, string>()
  for (const part of query.split(/[&;]/)) {
    if (part === '') continue
    const [, name = '', value = ''] = /^([^=]*)=?(.*)$/s.exec(part) ?? []
    const key = decoded(name, 'query')
    if (key !== 'socket' && !tlsKeys.some((tls) => key === `tls-${tls}`))
      throw new Wrong(`query ${quoted(key)} is not known`)
    if (queries.has(key)) throw new Wrong(`query ${quoted(key)} is there twice`)
    queries.set(key, decoded(value, `query ${quoted(key)}`))
  }
  return queries
}

function tlsQueriesOf(queries: ReadonlyMap<string, string>): TlsQueries {
  const found = tlsKeys.map((key) => [key, queries.get(`tls-${key}`)] as const)
  return Object.fromEntries(found.filter(([, value]) => value !== undefined))
}

/** A name stands behind the first ":exportname=", and is not encoded. */
function parseLegacy(text: string): NbdAddress {
  const [address = '', ...names] = text.slice('nbd:'.length).split(':exportname=')
  const rest = { exportName: names.join(':exportname='), tls: false, tlsQueries: {} }
  if (address.startsWith('unix:')) {
    const path = address.slice('unix:'.length)
    if (path === '') throw new Wrong('path of the socket is missing')
    return { server: { kind: 'unix', path }, ...rest }
  }
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):([^:]*)$/.exec(address)
  if (match === null) throw new Wrong('expected nbd:HOST:PORT or nbd:unix:PATH')
  const host = match[1] ?? match[2] ?? ''
  return { server: { kind: 'inet', host, port: portIn(match[3] ?? '') }, ...rest }
}

function checkName(name: string): void {
  if (name.includes('\0')) throw new Wrong('NUL in the export name')
  const { length } = utf8(name)
  if (length > limits.string) throw new Wrong(`export name of ${length} bytes, at most ${limits.string}`)
}

function decoded(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Wrong(`${what} ${quoted(text)}, expected %-codes of UTF-8`)
  }
}

/** The URI of an address; what parseNbdAddress() makes of it is the same. */
export function formatNbdUri({ server, exportName, tls, tlsQueries }: NbdAddress): string {
  const queries = server.kind === 'unix' ? [['socket', server.path] as const] : []
  const scheme = `nbd${tls ? 's' : ''}${server.kind === 'unix' ? '+unix' : ''}`
  const all = [
    ...queries,
    ...Object.entries(tlsQueries).map(([key, value]) => [`tls-${key}`, value] as const),
  ]
  const query = all.map(([key, value]) => `${key}=${encoded(value)}`).join('&')
  const authority = server.kind === 'unix' ? '' : authorityOf(server.host, server.port)
  return `${scheme}://${authority}/${encoded(exportName)}${query === '' ? '' : `?${query}`}`
}

function authorityOf(host: string, port: number): string {
  const name = host.includes(':')
    ? `[${encodeURIComponent(host).replaceAll('%3A', ':')}]`
    : encodeURIComponent(host)
  return port === DEFAULT_PORT ? name : `${name}:${port}`
}

/** Slashes stay: they are legible in names and paths, and need no code. */
function encoded(text: string): string {
  return encodeURIComponent(text).replaceAll('%2F', '/')
}
