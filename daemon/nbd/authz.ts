// SPDX-License-Identifier: Apache-2.0
// Who of those with a certificate may use the NBD server: rules about distinguished names. A file of rules is read when a
// client comes, by an engine, so that it holds up nobody but clients. Used by TlsServer.
// Rule: whatever is missing or wrong lets nobody in.

import { X509Certificate } from 'node:crypto'
import { createEngine } from '../../native/engine.js'
import { type AuthzList, authzListFrom, isAllowed } from '../../protocol/authz.js'
import { authzList } from '../../protocol/schema/authz.js'
import { ArgumentError, validate } from '../../protocol/schema/validate.js'
import { CommandError } from '../errors.js'
import { textOf } from '../tls/text-file.js'
import type { AuthzSpec } from './messages.js'

export class Authorizer {
  #spec: AuthzSpec
  /** What a file that is read once holds. */
  #read: AuthzList | undefined

  constructor(spec: AuthzSpec) {
    this.#spec = spec
  }

  change(spec: AuthzSpec): void {
    this.#spec = spec
    this.#read = undefined
  }

  /** @returns undefined when it may come in; else why not */
  async refusal(identity: string): Promise<string | undefined> {
    try {
      if (await this.#allows(identity)) return undefined
      return `TLS x509 authz check for ${identity} is denied`
    } catch (error) {
      if (error instanceof CommandError) return error.message
      throw error
    }
  }

  async #allows(identity: string): Promise<boolean> {
    const spec = this.#spec
    switch (spec.kind) {
      case 'nobody':
        throw new CommandError(spec.why)
      case 'simple':
        return identity === spec.identity
      case 'list':
        return isAllowed(spec, identity)
      case 'file': {
        const list = this.#read ?? (await listIn(spec.filename))
        if (!spec.refresh && this.#spec === spec) this.#read = list
        return isAllowed(list, identity)
      }
      default:
        return spec satisfies never
    }
  }
}

/** @throws CommandError */
async function listIn(filename: string): Promise<AuthzList> {
  const engine = createEngine({ aio: 'threads', maxSlots: 1 })
  try {
    return authzListFrom(validate(authzList, JSON.parse(await textOf(engine, filename))))
  } catch (error) {
    if (!(error instanceof ArgumentError || error instanceof SyntaxError)) throw error
    throw new CommandError(`'${filename}' holds no rules: ${error.message}`, 'GenericError', { cause: error })
  } finally {
    await engine.shutdown(0)
  }
}

/**
 * The distinguished name of a certificate's owner as GnuTLS writes it, which rules are written for: parts in the order they
 * stand in, separated by commas, escaped as in RFC 4514.
 */
export function identityOf(certificate: Uint8Array): string {
  const parts = new X509Certificate(certificate).subject.split('\n')
  return parts
    .map((part) => part.replace(/(?<!\\) \+ /g, '+').replace(/(^|\+)emailAddress=/g, '$1EMAIL='))
    .join(',')
}
