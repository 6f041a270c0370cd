// SPDX-License-Identifier: Apache-2.0
// compress: a filter that has everything written through it stored compressed, where the format below can.

import { CommandError } from '../../../errors.js'
import type { Slice, WriteHow } from '../driver.js'
import type { BlockNode } from '../node.js'
import { Filter } from './filter.js'

/**
 * A cluster is compressed from one buffer.
 * @param target    where compressed clusters are to be stored
 * @param slotSize  of a buffer, bytes
 * @throws CommandError when its clusters are longer
 */
export function checkCompressible(target: BlockNode, slotSize: number): void {
  const cluster = target.driver.limits.writeAlign ?? 1
  if (cluster > slotSize)
    throw new CommandError(
      `Compression needs clusters of at most ${slotSize} bytes, those of '${target.name}' have ${cluster}`,
    )
}

export class CompressDriver extends Filter {
  readonly type = 'compress'

  override write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return super.write(offset, from, { ...how, compressed: true })
  }
}
