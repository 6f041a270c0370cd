// SPDX-License-Identifier: Apache-2.0
// Credentials of the images server, from their files, which may be renewed while it runs.

import { readFile } from 'node:fs/promises'
import type { TlsOptions } from 'node:tls'
import { ENOENT, errnoNumber, errnoText } from '../common/errno.js'
import { CommandError } from '../errors.js'
import { Encryption } from './encryption.js'
import type { TlsFiles } from './messages.js'

/** A client that has not agreed on TLS by then is cut off, milliseconds. */
const HANDSHAKE_MS = 10_000

export class Credentials {
  readonly #files: TlsFiles
  readonly encryption: Encryption

  private constructor(files: TlsFiles, encryption: Encryption) {
    this.#files = files
    this.encryption = encryption
  }

  /** @throws CommandError for files that cannot be read, or hold no credentials */
  static async load(files: TlsFiles): Promise<Credentials> {
    const options = await optionsOf(files)
    return new Credentials(
      files,
      usable(() => new Encryption(options)),
    )
  }

  /** Connections from now on see what the files hold now. @throws CommandError, and nothing is changed then */
  async reload(): Promise<void> {
    const options = await optionsOf(this.#files)
    usable(() => this.encryption.replace(options))
  }
}

async function optionsOf({ cert, key, clientCa }: TlsFiles): Promise<TlsOptions> {
  const [certText, keyText, ca] = await Promise.all([cert, key, clientCa].map(contents))
  return {
    ...{ cert: certText, key: keyText, handshakeTimeout: HANDSHAKE_MS },
    ...(ca !== undefined && { ca, requestCert: true, rejectUnauthorized: true }),
  }
}

function usable<T>(make: () => T): T {
  try {
    return make()
  } catch (error) {
    const text = `TLS credentials cannot be used: ${(error as Error).message}`
    throw new CommandError(text, 'GenericError', { cause: error })
  }
}

async function contents(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const why = errnoText(errnoNumber((error as NodeJS.ErrnoException).code ?? '') ?? ENOENT)
    throw new CommandError(`Unable to access credentials ${path}: ${why}`, 'GenericError', { cause: error })
  }
}
