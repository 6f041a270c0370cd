// SPDX-License-Identifier: Apache-2.0
// A guest that does what a script says on a recorded disk, and tells the recording when each request begins and ends.

import type { BlockNode } from '../../../daemon/iothread/block/node.js'
import type { Preallocate } from '../../../daemon/iothread/block/preallocate.js'
import { fillSectors, type GuestChange } from './guest-model.js'
import type { Lab } from './lab.js'
import type { Recording } from './recorded-disk.js'

/** Numbers are sectors: where, and how many; of a resize how many the disk has then, and what storage for them. */
export type Step =
  | readonly ['write' | 'packed' | 'zero' | 'unmap' | 'discard', number, number]
  | readonly ['resize', number, Preallocate['mode']?]
  | readonly ['flush' | 'settle']
  | readonly ['together', ...Step[]]

export class Script {
  readonly #lab: Lab
  readonly #node: BlockNode
  readonly #recording: Recording
  #stamp: number
  #slot = 0

  constructor(lab: Lab, node: BlockNode, recording: Recording, firstStamp: number) {
    this.#lab = lab
    this.#node = node
    this.#recording = recording
    this.#stamp = firstStamp
  }

  /** The next stamp that was not used. */
  get stamp(): number {
    return this.#stamp
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const step of steps) await this.#step(step)
  }

  async #step(step: Step): Promise<void> {
    switch (step[0]) {
      case 'together':
        await Promise.all(step.slice(1).map((one) => this.#step(one as Step)))
        return
      case 'flush':
        return await this.#flush()
      case 'settle':
        return await this.#node.driver.settle?.()
      case 'resize': {
        const change = { op: 'resize', sector: this.#node.length() / 512, count: step[1], stamp: 0 } as const
        const how = step[2] === undefined ? {} : { preallocate: this.#preallocate(step[2]) }
        return await this.#change(change, () => this.#node.resize(step[1] * 512, how))
      }
      default:
        return await this.#request(...step)
    }
  }

  async #request(
    kind: 'write' | 'packed' | 'zero' | 'unmap' | 'discard',
    sector: number,
    count: number,
  ): Promise<void> {
    const [offset, length] = [sector * 512, count * 512]
    if (kind === 'discard') {
      const change = { op: kind, sector, count, stamp: 0 }
      return await this.#change(change, () => this.#node.discard(offset, length))
    }
    if (kind === 'zero' || kind === 'unmap') {
      const change = { op: 'zero', sector, count, stamp: 0 } as const
      const how = { unmap: kind === 'unmap', fast: false }
      return await this.#change(change, () => this.#node.zero(offset, length, how))
    }
    const stamp = this.#stamp++
    const slot = this.#lab.slots[1 + (this.#slot++ % (this.#lab.slots.length - 1))] ?? 0
    const { buffer, byteOffset } = this.#lab.engine.slotBytes(slot)
    fillSectors(Buffer.from(buffer, byteOffset, length), sector, count, stamp)
    const how = { compressed: kind === 'packed' }
    await this.#change({ op: 'write', sector, count, stamp }, () =>
      this.#node.write(offset, { slot, offset: 0, length }, how),
    )
  }

  #preallocate(mode: Preallocate['mode']): Preallocate {
    const [slot = 0] = this.#lab.slots
    this.#lab.engine.slotBytes(slot).fill(0)
    return { mode, zeroes: { slot, offset: 0, length: 8192 }, step: async () => undefined }
  }

  async #flush(): Promise<void> {
    const flush = {}
    this.#recording.log.push({ kind: 'guest flushing', flush })
    await this.#node.flush()
    this.#recording.log.push({ kind: 'guest flushed', flush })
  }

  async #change(change: GuestChange, work: () => Promise<void>): Promise<void> {
    this.#recording.log.push({ kind: 'guest began', change })
    await work()
    this.#recording.log.push({ kind: 'guest done', change })
  }
}
