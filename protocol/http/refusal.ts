// SPDX-License-Identifier: Apache-2.0
// A request that is answered with an error: status, one sentence, and what headers go with it.

import type { Header } from './reply.js'

export class Refusal extends Error {
  override readonly name = 'Refusal'

  /** @param message  a sentence for the client; nothing of other tickets, no path */
  constructor(
    readonly status: number,
    message: string,
    readonly headers: readonly Header[] = [],
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

export function badRequest(message: string): Refusal {
  return new Refusal(400, message)
}
