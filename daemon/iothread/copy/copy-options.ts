// SPDX-License-Identifier: Apache-2.0
// What a copy is of and what it may use. Given to the engine by job bodies.

import type { Area, DirtyBitmap } from '../block/dirty-bitmap.js'
import type { BlockNode } from '../block/node.js'
import type { Snapshot } from '../block/snapshot.js'
import type { Buffers } from './buffers.js'
import type { Courtesy } from './courtesy.js'
import type { CopyControl } from './pace.js'
import type { RateLimit } from './rate-limit.js'

export interface CopyOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly bitmap: DirtyBitmap
  readonly limit: RateLimit
  readonly control: CopyControl
  readonly buffers: Buffers
  readonly courtesy: Courtesy
  /** Pieces under way at most. */
  readonly tasks: number
  /** Longest read and write, bytes; a whole multiple of what the target wants whole. */
  readonly piece: number
  /** Zero ranges may become holes on the target. */
  readonly unmap: boolean
  /** See CopyHow. */
  readonly sparse?: number
  /** The user vouches that the target reads as zero where nothing was written yet. */
  readonly targetIsZero: boolean
  /** The source as it was, with the bitmap of what is to do; undefined: the source as it is. */
  readonly snapshot?: Snapshot
  /** Told of what of a snapshot was copied by the engine. */
  readonly copied?: (part: Area) => Promise<void>
  /** Source and target are one image, which gets what shows through it; see CopyHow. */
  readonly below?: 'kept' | 'cut'
}
