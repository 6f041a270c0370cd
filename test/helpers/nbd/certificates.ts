// SPDX-License-Identifier: Apache-2.0
// Certificates for tests, in folders as TLS credentials want them. Made with openssl.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: 'ignore' })
}

interface Issue {
  /** What the certificate names; default: localhost. */
  readonly names?: string
  /** Negative: it expired before it began. */
  readonly days?: number
}

const LOCAL = 'DNS:localhost,IP:127.0.0.1,IP:::1'

export class Authority {
  readonly #folder: string

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true })
    this.#folder = folder
    const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout', this.#at('ca-key.pem')]
    openssl('req', '-x509', ...key, '-out', this.#at('ca-cert.pem'), '-subj', '/CN=ca', '-days', '2')
  }

  /** @param dir  gets the authority's certificate, and key and certificate of the ends */
  issue(
    dir: string,
    ends: readonly ('client' | 'server')[],
    { names = LOCAL, days = 2 }: Issue = {},
  ): string {
    this.trust(dir)
    const at = (name: string) => join(dir, name)
    writeFileSync(at('names'), `subjectAltName=${names}`)
    for (const end of ends) {
      const fresh = ['-newkey', 'rsa:2048', '-nodes', '-keyout', at(`${end}-key.pem`)]
      openssl('req', ...fresh, '-out', at(`${end}.csr`), '-subj', `/O=blockferry/CN=${end}`)
      const signer = ['-CA', this.#at('ca-cert.pem'), '-CAkey', this.#at('ca-key.pem'), '-CAcreateserial']
      const files = ['-in', at(`${end}.csr`), '-out', at(`${end}-cert.pem`), '-extfile', at('names')]
      openssl('x509', '-req', ...files, ...signer, '-days', String(days))
    }
    return dir
  }

  /** @param dir  gets the authority's certificate alone */
  trust(dir: string): string {
    mkdirSync(dir, { recursive: true })
    copyFileSync(this.#at('ca-cert.pem'), join(dir, 'ca-cert.pem'))
    return dir
  }

  #at(name: string): string {
    return join(this.#folder, name)
  }
}
