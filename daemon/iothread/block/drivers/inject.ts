// SPDX-License-Identifier: Apache-2.0
// x-inject and blkdebug: passes requests on to its child and fails, delays, stalls or tears the ones its rules name.
// Test double for bad storage, also for users who rehearse failures. A stalled request waits until the node is
// reopened or closed and then goes on to the rest of its fate; it is visible as the oldest request meanwhile.

import { setTimeout as delay } from 'node:timers/promises'
import { IoError } from '../../../errors.js'
import type { BlockDriver, Extent, Limits, ReadHow, Slice, StatusHow, WriteHow, ZeroHow } from '../driver.js'
import type { HeldRequests } from '../held.js'
import type { BlockNode } from '../node.js'
import { Filter } from './filter.js'
import type { Fate, InjectOp, InjectRules } from './inject-rules.js'

export interface InjectOptions {
  readonly type: 'x-inject' | 'blkdebug'
  readonly name: string
  readonly rules: InjectRules
  /** Alignment to pretend, bytes; undefined: the child's. */
  readonly align: number | undefined
  readonly held: HeldRequests
}

export class InjectDriver extends Filter implements BlockDriver {
  readonly type: 'x-inject' | 'blkdebug'
  readonly #options: InjectOptions
  #stalled: (() => void)[] = []
  /** Set by release(), for good: a request that comes to its stall later must not wait for a release that was. */
  #released = false

  constructor(child: BlockNode, options: InjectOptions) {
    super(child)
    this.type = options.type
    this.#options = options
  }

  override get limits(): Limits {
    const limits = super.limits
    const align = this.#options.align
    return align === undefined ? limits : { ...limits, requestAlign: align, zeroAlign: align }
  }

  override async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const fate = this.#options.rules.next('read', offset, into.length)
    if (fate !== undefined) await this.#suffer(fate, 'read', offset, into.length)
    return this.child.read(offset, into, how)
  }

  override async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    const fate = this.#options.rules.next('write', offset, from.length)
    if (fate === undefined) return this.child.write(offset, from, how)
    if (fate.tear === undefined) {
      await this.#suffer(fate, 'write', offset, from.length)
      return this.child.write(offset, from, how)
    }
    await this.#wait(fate, 'write')
    const length = Math.min(fate.tear, from.length)
    if (length > 0) await this.child.write(offset, { slot: from.slot, offset: from.offset, length }, how)
    this.#fail(fate, 'write', offset, from.length)
  }

  override async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    const fate = this.#options.rules.next('zero', offset, length)
    if (fate !== undefined) await this.#suffer(fate, 'zero', offset, length)
    return this.child.zero(offset, length, how)
  }

  override async discard(offset: number, length: number): Promise<void> {
    const fate = this.#options.rules.next('discard', offset, length)
    if (fate !== undefined) await this.#suffer(fate, 'discard', offset, length)
    return this.child.discard(offset, length)
  }

  override async status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    const fate = this.#options.rules.next('status', offset, length)
    if (fate !== undefined) await this.#suffer(fate, 'status', offset, length)
    return this.child.status(offset, length, how)
  }

  override async flush(): Promise<void> {
    const fate = this.#options.rules.next('flush')
    if (fate !== undefined) await this.#suffer(fate, 'flush', 0, 0)
    return this.child.flush()
  }

  /** The rules for opening, asked once before the driver is used. */
  async opened(): Promise<this> {
    const fate = this.#options.rules.next('open')
    if (fate !== undefined) await this.#suffer(fate, 'open', 0, 0)
    return this
  }

  release(): void {
    this.#released = true
    const stalled = this.#stalled
    this.#stalled = []
    for (const resolve of stalled) resolve()
  }

  override async close(): Promise<void> {
    const fate = this.#options.rules.next('close')
    if (fate !== undefined) await this.#suffer(fate, 'close', 0, 0)
  }

  async #suffer(fate: Fate, op: InjectOp, offset: number, length: number): Promise<void> {
    await this.#wait(fate, op)
    this.#fail(fate, op, offset, length)
  }

  async #wait(fate: Fate, op: InjectOp): Promise<void> {
    using _held = this.#options.held.hold(op, this.#options.name)
    // Storage never answers in the same turn of the loop: what was asked beside this request gets started.
    await delay(fate.delayMs)
    if (fate.stall && !this.#released) await new Promise<void>((resolve) => this.#stalled.push(resolve))
  }

  #fail(fate: Fate, op: InjectOp, offset: number, length: number): void {
    if (fate.errno !== undefined) throw new IoError(fate.errno, op, this.#options.name, offset, length)
  }
}
