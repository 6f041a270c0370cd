// SPDX-License-Identifier: Apache-2.0
// The filter that stands above a node of a running backup, commit or stream. Managers look for it by name. It lets everything
// through: what a backup does to requests is done at the node itself, where none can come past; the others do nothing to them. Put in place by
// Graph.insertFilter.

import type { BlockNode } from '../node.js'
import { Filter } from './filter.js'

/** As the peer calls what it has there. */
export type PassingName = 'copy-before-write' | 'commit_top' | 'copy-on-read'

export class PassingTop extends Filter {
  readonly type: PassingName

  constructor(child: BlockNode, type: PassingName) {
    super(child)
    this.type = type
  }
}
