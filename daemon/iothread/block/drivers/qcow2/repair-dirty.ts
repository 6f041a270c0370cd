// SPDX-License-Identifier: Apache-2.0
// An image with the dirty bit: its last writer ended before it wrote the refcounts. Reading it needs none; before the
// first change they are put right, and the bit is cleared. Used by the qcow2 map, when locks are held.

import { FormatError } from '../../../../../protocol/format-error.js'
import { EIO } from '../../../../common/errno.js'
import { IoError } from '../../../../errors.js'
import { checkQcow2 } from './check/check.js'
import type { SlotSource } from './check/image-bytes.js'
import type { Image } from './image.js'

/** @throws IoError when the image cannot be repaired; it is as dirty as before then */
export async function repairDirty(image: Image): Promise<void> {
  const { file, name, buffers } = image.env
  using loan = await buffers.copies.take()
  const [buffer] = loan.slices
  if (buffer === undefined) return
  const io = {
    node: file,
    engine: buffers.engine,
    slots: oneSlot(buffer.slot, buffer.length),
    pausePoint: async () => {},
  }
  const fail = (cause: Error) => new IoError(EIO, 'write', name, 0, 0, { cause })
  try {
    const { checkErrors, corruptions } = await checkQcow2(io, 'all', { done: 0, total: 0 })
    if (checkErrors === 0 && corruptions === 0) return
  } catch (error) {
    throw error instanceof FormatError ? fail(error) : error
  }
  throw fail(new FormatError('Could not repair dirty image'))
}

/** A source of one slot, lent to one at a time. */
function oneSlot(slot: number, slotSize: number): SlotSource {
  let free = true
  const line: (() => void)[] = []
  return {
    slotSize,
    take() {
      if (!free) return undefined
      free = false
      return slot
    },
    give() {
      free = true
      for (const next of line.splice(0)) next()
    },
    whenGiven(call) {
      line.push(call)
    },
  }
}
