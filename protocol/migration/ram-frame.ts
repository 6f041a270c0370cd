// SPDX-License-Identifier: Apache-2.0
// What whoever writes a stream or a mapped-ram file puts around the pages. With the block list (block-list.ts), the pages
// and the tail this is all of it: sections and ids stay those of the source.

import { concat, Writer } from './bytes.js'
import { type Configuration, formatConfiguration } from './configuration.js'
import { formatPreamble } from './preamble.js'
import { RamFlag } from './ram-flags.js'
import { formatFooter, formatHead } from './section.js'
import { ramStart } from './section-role.js'

/** Everything in front of the body of START of RAM. */
export function formatStreamHead(configuration: Configuration, ramId: number): Uint8Array {
  return concat([formatPreamble(), formatConfiguration(configuration), formatHead(ramStart(ramId))])
}

/** The end of a body of RAM, and its footer. */
export function formatRamEos(ramId: number): Uint8Array {
  return concat([new Writer().u64(RamFlag.eos).finish(), formatFooter(ramId)])
}

/** A whole PART or END of RAM without pages: all of the RAM that is left in a mapped-ram file. */
export function formatEmptyRam(part: 'part' | 'end', ramId: number): Uint8Array {
  return concat([formatHead({ kind: part, id: ramId }), formatRamEos(ramId)])
}
