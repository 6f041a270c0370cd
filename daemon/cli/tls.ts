// SPDX-License-Identifier: Apache-2.0
// TLS of exports that commands use: what an address asks for becomes credentials of the daemon, which exist only while
// nodes are opened with them. What queries mean, and what goes without saying, is libnbd's (nbd_connect_uri(3)).

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { formatNbdUri, type NbdAddress } from '../../protocol/nbd/uri.js'
import type { Client, CommandArguments } from './client.js'
import { failed, usage } from './status.js'

/** Credentials for one export. */
export interface TlsAsked {
  /** Name of the object; other commands use the daemon too. */
  readonly id: string
  /** For object-add. */
  readonly object: CommandArguments
  /** Who the server's certificate has to name; undefined: the host. */
  readonly hostname: string | undefined
}

/**
 * @param name  as the user wrote it
 * @returns undefined for a connection that is not to be encrypted
 * @throws CliError (usage) for what contradicts itself
 */
export function tlsAskedBy(name: string, address: NbdAddress): TlsAsked | undefined {
  const { type, hostname, certificates, 'psk-file': pskFile } = address.tlsQueries
  const wrong = (what: string) => usage(`'${name}': ${what}`)
  if (!address.tls) {
    if ([type, hostname, certificates, pskFile].some((each) => each !== undefined))
      throw wrong('queries tls-… need nbds:// or nbds+unix://')
    return undefined
  }
  if (type !== undefined && type !== 'x509' && type !== 'psk')
    throw wrong(`tls-type is x509 or psk, found '${type}'`)
  const kind = type ?? (pskFile === undefined ? 'x509' : 'psk')
  if (kind === 'psk' && pskFile === undefined) throw wrong('tls-type=psk needs tls-psk-file=FILE')
  if (pskFile !== undefined && (kind !== 'psk' || certificates !== undefined))
    throw wrong('tls-psk-file and certificates exclude each other')
  const object = pskFile === undefined ? x509Object(name, address) : pskObject(pskFile, address)
  const id = `tls-${createHash('sha256').update(formatNbdUri(address)).digest('hex').slice(0, 8)}-${process.pid}`
  return { id, object: { ...object, id, endpoint: 'client' }, hostname }
}

/** Runs work that opens nodes on exports; their credentials are there for so long. */
export async function withCredentials<T>(
  client: Client,
  ends: readonly { readonly tls?: TlsAsked }[],
  work: () => Promise<T>,
): Promise<T> {
  const asked = ends.flatMap(({ tls }) => tls ?? [])
  const added: string[] = []
  try {
    for (const { id, object } of asked) {
      await client.execute('object-add', object)
      added.push(id)
    }
    return await work()
  } finally {
    // A daemon that is gone has forgotten them.
    for (const id of added) await client.execute('object-del', { id }).catch(() => undefined)
  }
}

function pskObject(file: string, { tlsQueries }: NbdAddress): CommandArguments {
  const path = resolve(file)
  const username = tlsQueries.username ?? userInfo().username
  return { 'qom-type': 'tls-creds-psk', dir: dirname(path), 'x-file': basename(path), username }
}

function x509Object(name: string, { tlsQueries }: NbdAddress): CommandArguments {
  const { certificates, 'verify-peer': verify } = tlsQueries
  const dir = certificates === undefined ? defaultFolder(name) : resolve(certificates)
  return { 'qom-type': 'tls-creds-x509', dir, 'verify-peer': verify === undefined || flag(name, verify) }
}

function flag(name: string, text: string): boolean {
  if (/^(1|true|yes|on)$/i.test(text)) return true
  if (/^(0|false|no|off)$/i.test(text)) return false
  throw usage(`'${name}': tls-verify-peer is true or false, found '${text}'`)
}

/** Where libnbd looks. */
function defaultFolder(name: string): string {
  const folders =
    process.getuid?.() === 0
      ? ['/etc/pki/libnbd']
      : [join(homedir(), '.pki/libnbd'), join(homedir(), '.config/pki/libnbd')]
  const found = folders.find((folder) => existsSync(folder))
  if (found !== undefined) return found
  throw failed(
    `cannot open '${name}': no TLS credentials, neither tls-certificates=FOLDER nor tls-psk-file=FILE nor ${folders.join(' nor ')}`,
  )
}
