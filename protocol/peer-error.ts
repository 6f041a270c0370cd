// SPDX-License-Identifier: Apache-2.0
// The other side of a connection broke its protocol, or cannot do what we need. Thrown by codecs of connections; whoever
// owns the connection closes it, and the daemon goes on.

export class PeerError extends Error {
  override readonly name = 'PeerError'
}
