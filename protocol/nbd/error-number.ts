// SPDX-License-Identifier: Apache-2.0
// Errors of NBD replies and errno: the one table between them. The wire knows eight; a server maps what a disk said to
// one of them, a client takes the number as an errno.
// Source: doc/proto.md, "Error values". Numbers of errno are Linux's generic ones.

import { nameOf } from './constants.js'

export const nbdErrors = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const

export type NbdErrorName = keyof typeof nbdErrors

/** What is none of the eight. */
const mapped: ReadonlyMap<number, NbdErrorName> = new Map([
  [13, 'EPERM'], // EACCES
  [30, 'EPERM'], // EROFS
  [27, 'ENOSPC'], // EFBIG: beyond what the file system can store
  [122, 'ENOSPC'], // EDQUOT
])

/**
 * @param errno  positive errno of the disk
 * An errno that says nothing to a client is EIO: EINVAL would blame the client's request for the disk's trouble.
 */
export function nbdErrorOf(errno: number): NbdErrorName {
  return nameOf(nbdErrors, errno) ?? mapped.get(errno) ?? 'EIO'
}

/**
 * The errno of an error in a reply.
 * @param error  as sent, not 0
 * A number that the protocol does not have counts as EINVAL, as it asks of clients.
 */
export function errnoOf(error: number): number {
  return nbdErrors[nameOf(nbdErrors, error) ?? 'EINVAL']
}
