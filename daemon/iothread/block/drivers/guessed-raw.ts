// SPDX-License-Identifier: Apache-2.0
// raw for an image whose format nobody named: it was guessed, from the very bytes its user may write. Such a user must
// not be able to make it something else for the next one who guesses, and through that to read other files.
// Rule: no write leaves the beginning of a known format in the first sector.

import { formatOf } from '../../../../protocol/image-magic.js'
import { CommandError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import type { Slice, WriteHow } from '../driver.js'
import { type BlockNode, SECTOR } from '../node.js'
import { Filter } from './filter.js'

class GuessedRawDriver extends Filter {
  readonly type = 'raw'
  readonly #name: string
  readonly #bytes: (slot: number) => Uint8Array

  constructor(child: BlockNode, name: string, bytes: (slot: number) => Uint8Array) {
    super(child)
    this.#name = name
    this.#bytes = bytes
  }

  /** @throws CommandError, which no error policy tries again */
  override async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    if (offset < SECTOR && from.length > 0) this.#check(offset, from)
    await this.child.write(offset, from, how)
  }

  #check(offset: number, { slot, offset: start, length }: Slice): void {
    const whole = offset === 0 && length >= Math.min(SECTOR, this.child.length())
    const format = whole
      ? formatOf(this.#bytes(slot).subarray(start, start + Math.min(length, SECTOR)))
      : undefined
    if (whole && format === undefined) return
    const what = format === undefined ? 'a part of the first sector' : `the beginning of a ${format} image`
    throw new CommandError(
      `Node '${this.#name}' was only guessed to be raw, so ${what} is not written to it; name its format`,
    )
  }
}

/**
 * @param bytes  those of a slot
 * @throws CommandError for a window, which has no format of its own
 */
export function openGuessedRaw(
  spec: NodeSpec,
  child: BlockNode,
  bytes: (slot: number) => Uint8Array,
): GuessedRawDriver {
  if (spec.offset !== undefined || spec.size !== undefined)
    throw new CommandError("'x-guessed' cannot be used with 'offset' or 'size'")
  return new GuessedRawDriver(child, spec['node-name'], bytes)
}
