// SPDX-License-Identifier: Apache-2.0
// The dirty bitmap of its source that a copying job goes by. Used by mirrors and backups.

import type { GiveBack } from '../../common/give-back.js'
import { CommandError } from '../../errors.js'
import type { BitmapUse } from '../block/bitmaps/bitmap-use.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { BitmapMode } from '../messages-bitmaps.js'

/**
 * @param bitmap  undefined: the job goes by none
 * @param held    gets what gives it back
 * @throws CommandError when there is no such bitmap, or it cannot be used
 */
export async function takeBitmap(
  graph: Graph,
  source: BlockNode,
  bitmap: { readonly name: string; readonly mode: BitmapMode } | undefined,
  held: GiveBack[],
): Promise<BitmapUse | undefined> {
  if (bitmap === undefined) return undefined
  const found = source.bitmaps.find(bitmap.name)
  if (found === undefined) throw new CommandError(`Bitmap '${bitmap.name}' could not be found`)
  const use = await graph.bitmaps.take(source, found, bitmap.mode === 'never')
  held.push(() => use.release())
  return use
}
