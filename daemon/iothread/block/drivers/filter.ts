// SPDX-License-Identifier: Apache-2.0
// What filters have in common: everything goes to one child unless a filter says otherwise. Base of all filters,
// and of raw, which only shifts offsets.

import type {
  BlockDriver,
  Can,
  DriverName,
  Extent,
  Limits,
  ReadHow,
  ResizeHow,
  Slice,
  StatusHow,
  WriteHow,
  ZeroHow,
} from '../driver.js'
import type { BlockNode } from '../node.js'

export abstract class Filter implements BlockDriver {
  abstract readonly type: DriverName
  /** Changed by replaceChild() only. */
  protected child: BlockNode

  /** The child stays the graph's: closing a filter does not close it. */
  constructor(child: BlockNode) {
    this.child = child
  }

  get limits(): Limits {
    return this.child.driver.limits
  }
  get can(): Can {
    const can = this.child.driver.can
    return this.child.options.discard === 'unmap' ? can : { ...can, unmap: false }
  }
  length(): number {
    return this.child.length()
  }
  read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    return this.child.read(offset, into, how)
  }
  write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return this.child.write(offset, from, how)
  }
  zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    return this.child.zero(offset, length, how)
  }
  discard(offset: number, length: number): Promise<void> {
    return this.child.discard(offset, length)
  }
  status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    return this.child.status(offset, length, how)
  }
  flush(): Promise<void> {
    return this.child.flush()
  }
  resize(length: number, how?: ResizeHow): Promise<void> {
    return this.child.resize(length, how)
  }
  replaceChild(_role: string, node: BlockNode | undefined): void {
    if (node !== undefined) this.child = node
  }
  async close(): Promise<void> {}
}
