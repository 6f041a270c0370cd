// SPDX-License-Identifier: Apache-2.0
// nbd: a leaf on an NBD server.

import { socketAddress } from '../addresses.js'
import { type Members, optional, required, str, uint32 } from '../types.js'

const options = {
  server: required(socketAddress, 'Where the server is.'),
  export: optional(str, 'Name of the export. Default: the one without a name.'),
  'reconnect-delay': optional(
    uint32,
    'When the connection is lost requests wait so long for it to come back, seconds, and are done again then; 0: they fail at once. A flush is believed after a return, so the server must not have lost what it had taken.',
    { default: 0 },
  ),
  'open-timeout': optional(
    uint32,
    'Connecting is tried again so long when the node is added, seconds; 0: once.',
    {
      default: 0,
    },
  ),
  'tls-creds': optional(str, 'Id of TLS credentials for a client: connections are encrypted, or not made.'),
  'tls-hostname': optional(
    str,
    'Who the server’s certificate has to name. Default: the host of an `inet` address.',
  ),
  'x-dirty-bitmap': optional(
    str,
    'Context that block status tells of in place of base:allocation, as `qemu:dirty-bitmap:NAME`: what is dirty is shown as neither data nor zero. What is copied is the same.',
  ),
} satisfies Members

export const nbd = { options }
