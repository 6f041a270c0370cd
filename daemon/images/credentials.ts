// SPDX-License-Identifier: Apache-2.0
// Credentials of the images server, from their files, which may be renewed while it runs.

import type { TlsOptions } from 'node:tls'
import { createEngine } from '../../native/engine.js'
import { Renewal } from '../common/renewal.js'
import { CommandError } from '../errors.js'
import { textOf } from '../tls/text-file.js'
import { Encryption } from './encryption.js'
import type { TlsFiles } from './messages.js'

/** A client that has not agreed on TLS by then is cut off, milliseconds. */
const HANDSHAKE_MS = 10_000
/** Longest file, bytes. */
const LONGEST_FILE = 1 << 20
/** As errors call the files. */
const WHAT = 'credentials '

export class Credentials {
  readonly #files: TlsFiles
  readonly #renewal = new Renewal(() => this.#reload())
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

  /**
   * Connections from then on see what the files hold now. Storage that does not answer holds up one reading, however often
   * this is called. @throws CommandError, and nothing is changed then
   */
  reload(): Promise<void> {
    return this.#renewal.ask()
  }

  async #reload(): Promise<void> {
    const options = await optionsOf(this.#files)
    usable(() => this.encryption.replace(options))
  }
}

/** Read by an engine: storage that does not answer holds up nobody but who wants the files. */
async function optionsOf({ cert, key, clientCa }: TlsFiles): Promise<TlsOptions> {
  const engine = createEngine({ aio: 'threads', slotSize: LONGEST_FILE, maxSlots: 1 })
  try {
    const own = { cert: await textOf(engine, cert, WHAT), key: await textOf(engine, key, WHAT) }
    const ca = clientCa === undefined ? undefined : await textOf(engine, clientCa, WHAT)
    return {
      ...{ ...own, handshakeTimeout: HANDSHAKE_MS },
      ...(ca !== undefined && { ca, requestCert: true, rejectUnauthorized: true }),
    }
  } finally {
    await engine.shutdown(0)
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
