// SPDX-License-Identifier: Apache-2.0
// throttle: requests wait until their throttle group lets them through.

import type { ReadHow, Slice, WriteHow, ZeroHow } from '../driver.js'
import type { HeldRequests } from '../held.js'
import type { BlockNode } from '../node.js'
import type { ThrottleGroup } from '../throttle-group.js'
import { Filter } from './filter.js'

export class ThrottleDriver extends Filter {
  readonly type = 'throttle'
  readonly #group: ThrottleGroup
  readonly #name: string
  readonly #held: HeldRequests

  constructor(child: BlockNode, group: ThrottleGroup, name: string, held: HeldRequests) {
    super(child)
    this.#group = group
    this.#name = name
    this.#held = held
  }

  override async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    await this.#admit('read', into.length)
    return this.child.read(offset, into, how)
  }
  override async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    await this.#admit('write', from.length)
    return this.child.write(offset, from, how)
  }
  override async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    await this.#admit('write', length)
    return this.child.zero(offset, length, how)
  }
  override async discard(offset: number, length: number): Promise<void> {
    await this.#admit('write', length)
    return this.child.discard(offset, length)
  }

  async #admit(direction: 'read' | 'write', bytes: number): Promise<void> {
    using _held = this.#held.hold(direction, this.#name)
    await this.#group.admit(this.#name, direction, bytes)
  }
}
