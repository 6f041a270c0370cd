// SPDX-License-Identifier: Apache-2.0
// Credentials of the NBD server, from their files.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TLSSocket, TlsOptions } from 'node:tls'
import { ENOENT, errnoNumber, errnoText } from '../common/errno.js'
import { CommandError } from '../errors.js'
import { Encryption } from '../tls/encryption.js'
import type { TlsSpec } from './messages.js'

/** Key exchanges with a key that both ends know; GnuTLS, which clients use, offers the same. */
const PSK_CIPHERS =
  'ECDHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256'

/** @throws CommandError for files that cannot be read, or hold no credentials */
export async function loadTls(spec: TlsSpec): Promise<Encryption> {
  const options = spec.kind === 'psk' ? await pskOptions(spec) : await x509Options(spec)
  try {
    return new Encryption(options)
  } catch (error) {
    throw new CommandError(
      `TLS credentials in '${spec.dir}' cannot be used: ${(error as Error).message}`,
      'GenericError',
      { cause: error },
    )
  }
}

async function x509Options({ dir, verifyPeer }: TlsSpec): Promise<TlsOptions> {
  const [cert, key] = await Promise.all([
    credentials(dir, 'server-cert.pem'),
    credentials(dir, 'server-key.pem'),
  ])
  // Without a CA, clients are not asked for a certificate, and this end shows its own alone.
  const ca = verifyPeer ? { ca: await credentials(dir, 'ca-cert.pem') } : {}
  return { cert, key, ...ca, requestCert: verifyPeer, rejectUnauthorized: verifyPeer }
}

async function pskOptions({ dir }: TlsSpec): Promise<TlsOptions> {
  const keys = parseKeys(await credentials(dir, 'keys.psk'), dir)
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: (_socket: TLSSocket, user: string) => keys.get(user) ?? null,
  }
}

/** Lines of USER:KEY. */
function parseKeys(text: string, dir: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>()
  for (const line of text.split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const match = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line)
    if (match === null)
      throw new CommandError(
        `'${join(dir, 'keys.psk')}' has a line that is not USER:KEY in hexadecimal digits`,
      )
    keys.set(match[1] ?? '', Buffer.from(match[2] ?? '', 'hex'))
  }
  return keys
}

async function credentials(dir: string, name: string): Promise<string> {
  const path = join(dir, name)
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const why = errnoText(errnoNumber((error as NodeJS.ErrnoException).code ?? '') ?? ENOENT)
    throw new CommandError(`Unable to access credentials ${path}: ${why}`, 'GenericError', { cause: error })
  }
}
