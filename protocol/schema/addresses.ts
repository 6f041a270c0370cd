// SPDX-License-Identifier: Apache-2.0
// Addresses of sockets, in the two shapes there are: members beside `type`, and members under `data`.

import { enumOf, required, str, struct, union } from './types.js'

const type = enumOf('SocketAddressType', ['inet', 'unix', 'vsock', 'fd'])

export const socketAddress = union(
  'SocketAddress',
  { type: required(type, 'vsock is not supported.') },
  'type',
  {
    inet: { host: required(str, 'Name or address.'), port: required(str, 'Decimal.') },
    unix: { path: required(str, 'Path of the socket.') },
    vsock: { cid: required(str, 'Context.'), port: required(str, 'Decimal.') },
    fd: { str: required(str, 'A name (see getfd).') },
  },
)

/** As QEMU has it for nbd-server-start alone. */
export const legacyAddress = union('SocketAddressLegacy', { type: required(type, 'inet or unix.') }, 'type', {
  inet: {
    data: required(
      struct('InetSocketAddressWrapper-data', {
        host: required(str, 'Host name or address; empty: every address of this machine.'),
        port: required(str, 'Port number in decimal; 0: any that is free.'),
      }),
      'Where.',
    ),
  },
  unix: {
    data: required(
      struct('UnixSocketAddressWrapper-data', { path: required(str, 'Path of the socket.') }),
      'Where.',
    ),
  },
  vsock: {},
  fd: {},
})
