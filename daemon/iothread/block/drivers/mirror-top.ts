// SPDX-License-Identifier: Apache-2.0
// The filter that stands above the source of a running mirror. Managers look for it by name and find the job's dirty
// bitmap there. Requests of the source's users come through it: the job may see to it that a change has reached the
// target too before it is answered. Put in place by Graph.insertFilter.

import type { Slice, WriteHow, ZeroHow } from '../driver.js'
import type { BlockNode } from '../node.js'
import { Filter } from './filter.js'

/** Is given every change that comes through the filter. */
export interface ChangeGuard {
  /** @param submit  makes the change below; to be called at once, and once */
  change(offset: number, length: number, submit: () => Promise<void>): Promise<void>
}

export class MirrorTop extends Filter {
  readonly type = 'mirror_top'
  readonly #guard: ChangeGuard | undefined

  constructor(child: BlockNode, guard?: ChangeGuard) {
    super(child)
    this.#guard = guard
  }

  override write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return this.#change(offset, from.length, () => this.child.write(offset, from, how))
  }

  override zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    return this.#change(offset, length, () => this.child.zero(offset, length, how))
  }

  override discard(offset: number, length: number): Promise<void> {
    // One that changes nothing leaves nothing to be copied.
    if (this.child.options.discard === 'ignore') return this.child.discard(offset, length)
    return this.#change(offset, length, () => this.child.discard(offset, length))
  }

  #change(offset: number, length: number, submit: () => Promise<void>): Promise<void> {
    return this.#guard === undefined ? submit() : this.#guard.change(offset, length, submit)
  }
}
