// SPDX-License-Identifier: Apache-2.0
// What may be agreed on before requests are sent.

import type { Agreed } from '../../../protocol/nbd/agreed.js'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'

/** All that a server can do and may be asked for, an export of 1 MiB, blocks of 512 bytes. */
export const everything: Agreed = {
  exportName: 'disk',
  size: 1 << 20,
  flags: Object.values(transmissionFlags).reduce((all, flag) => all | flag, 0) & ~transmissionFlags.READ_ONLY,
  replies: 'extended',
  blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 64 << 10 },
  contexts: [
    { id: 0, name: 'base:allocation' },
    { id: 5, name: 'qemu:dirty-bitmap:b0' },
  ],
}

/** `flags` are the names of those that are missing. */
export function without(...flags: readonly (keyof typeof transmissionFlags)[]): Agreed {
  return {
    ...everything,
    flags: flags.reduce((all, name) => all & ~transmissionFlags[name], everything.flags),
  }
}

export const readOnly: Agreed = { ...everything, flags: everything.flags | transmissionFlags.READ_ONLY }
