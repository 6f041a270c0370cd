// SPDX-License-Identifier: Apache-2.0
// What a negotiation wants done, one step after the other. Server and client have the same ones.

import type { PeerError } from '../peer-error.js'
import type { Agreed } from './agreed.js'
import type { OptionErrorName } from './constants.js'

export type NegotiationStep =
  | { readonly kind: 'send'; readonly bytes: Uint8Array }
  /**
   * Make the connection a TLS one, then call tlsStarted() and feed what it decrypts. `rest` came behind the last option or
   * answer in plaintext and belongs to TLS.
   */
  | { readonly kind: 'start-tls'; readonly rest: Uint8Array }
  /** The handshake is over. `rest` came behind it and belongs to the transmission phase. */
  | { readonly kind: 'transmission'; readonly agreed: Agreed; readonly rest: Uint8Array }
  | Closing

export interface Closing {
  readonly kind: 'close'
  /** undefined: the client ended the session, as it may. */
  readonly why?: PeerError
  /** What the server answered, where that is the reason. */
  readonly reply?: OptionErrorName | number
}
