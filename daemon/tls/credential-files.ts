// SPDX-License-Identifier: Apache-2.0
// Credentials of both ends from their files, under the names that QEMU has for them. Texts are the reference daemon's.

import { join } from 'node:path'
import type { IoEngine } from '../../native/types.js'
import { CommandError } from '../errors.js'
import type { Certificates, ClientCredentials, CredentialsPlace } from './messages.js'
import { textIfThere, textOf } from './text-file.js'

/** @throws CommandError for files that cannot be read, or do not hold the key */
export async function clientCredentials(
  engine: IoEngine,
  place: CredentialsPlace,
): Promise<ClientCredentials> {
  const { kind, dir } = place
  if (kind === 'x509')
    return { kind, dir, verifyPeer: place.verifyPeer, ...(await certificates(engine, dir, 'client')) }
  const { username, file } = place
  const key = (await keys(engine, place)).get(username)
  if (key === undefined)
    throw new CommandError(`Username ${username} not found in PSK file ${join(dir, file)}`)
  return { kind, dir, username, key }
}

/** A server has a certificate of its own, a client need not have one. @throws CommandError */
export async function certificates(
  engine: IoEngine,
  dir: string,
  end: 'client' | 'server',
): Promise<Certificates> {
  const own = end === 'server' ? needed : optional
  const [ca, crl, cert, key] = [
    await needed(engine, join(dir, 'ca-cert.pem')),
    await optional(engine, join(dir, 'ca-crl.pem')),
    await own(engine, join(dir, `${end}-cert.pem`)),
    await own(engine, join(dir, `${end}-key.pem`)),
  ]
  if ((cert === undefined) !== (key === undefined))
    throw new CommandError(
      `TLS credentials in '${dir}': ${end}-cert.pem and ${end}-key.pem belong together, and one is missing`,
    )
  return {
    ca,
    ...(crl !== undefined && { crl }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
  }
}

/** Lines of USER:KEY. @throws CommandError */
export async function keys(
  engine: IoEngine,
  { dir, file }: { readonly dir: string; readonly file: string },
): Promise<Map<string, Buffer>> {
  const path = join(dir, file)
  const found = new Map<string, Buffer>()
  for (const line of (await needed(engine, path)).split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const match = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line)
    if (match === null)
      throw new CommandError(`'${path}' has a line that is not USER:KEY in hexadecimal digits`)
    found.set(match[1] ?? '', Buffer.from(match[2] ?? '', 'hex'))
  }
  return found
}

/** @throws CommandError */
async function needed(engine: IoEngine, path: string): Promise<string> {
  return textOf(engine, path, 'credentials ')
}

/** @returns undefined where there is no such file. @throws CommandError */
async function optional(engine: IoEngine, path: string): Promise<string | undefined> {
  return textIfThere(engine, path, 'credentials ')
}
