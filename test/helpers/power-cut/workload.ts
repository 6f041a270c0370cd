// SPDX-License-Identifier: Apache-2.0
// A guest at work on a recorded disk: random requests from a seed, several at once, with flushes between them.

import { setImmediate as turn } from 'node:timers/promises'
import { IoError } from '../../../daemon/errors.js'
import type { BlockNode } from '../../../daemon/iothread/block/node.js'
import { fillSectors, type GuestChange } from './guest-model.js'
import type { Lab } from './lab.js'
import type { Recording } from './recorded-disk.js'

type Below = (below: number) => number

/** How often each is done, relative to the others. */
export interface Weights {
  readonly write?: number
  readonly packed?: number
  readonly zero?: number
  readonly discard?: number
  readonly flush?: number
  readonly resize?: number
}

export interface Shape {
  readonly weights: Weights
  /** Bytes. */
  readonly clusterSize: number
  /** Longest request in sectors. */
  readonly longest: number
  /** Largest disk that a resize makes, bytes. */
  readonly largest: number
}

const AT_ONCE = 4
/** Sectors of a slot. */
const MOST = 2048

export class Workload {
  readonly #lab: Lab
  readonly #node: BlockNode
  readonly #recording: Recording
  readonly #below: Below
  readonly #shape: Shape
  #stamp: number
  /** Requests that failed. */
  failures = 0
  /** What went wrong in a way that it must not. */
  readonly faults: string[] = []

  constructor(lab: Lab, node: BlockNode, recording: Recording, shape: Shape, firstStamp: number) {
    this.#lab = lab
    this.#node = node
    this.#recording = recording
    this.#below = recording.below
    this.#shape = shape
    this.#stamp = firstStamp
  }

  /** The next stamp that was not used. */
  get stamp(): number {
    return this.#stamp
  }

  /** Writes all of the disk. */
  async fill(): Promise<void> {
    const sectors = this.#node.length() / 512
    for (let sector = 0; sector < sectors; sector += MOST) {
      const count = Math.min(MOST, sectors - sector)
      await this.#request(
        { op: 'write', sector, count, stamp: this.#stamp++ },
        false,
        this.#lab.slots[1] ?? 0,
      )
    }
  }

  async run(rounds: number): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      const { weights } = this.#shape
      const batch: Promise<void>[] = []
      const used: GuestChange[] = []
      for (let count = 1 + this.#below(AT_ONCE); count > 0; count--) {
        const op = this.#pick(weights)
        if (op === 'flush') batch.push(this.flush())
        else if (op === 'resize') {
          await Promise.all(batch.splice(0))
          used.splice(0)
          await this.#resize()
        } else {
          const change = this.#place(op === 'packed' ? 'write' : op, op === 'packed')
          if (change === undefined || used.some((other) => overlaps(other, change))) continue
          used.push(change)
          batch.push(this.#request(change, op === 'packed', this.#lab.slots[1 + batch.length] ?? 0))
        }
        if (this.#below(3) === 0) await turn()
      }
      await Promise.all(batch)
    }
  }

  async flush(): Promise<void> {
    const flush = {}
    this.#recording.log.push({ kind: 'guest flushing', flush })
    // After a failed flush none may succeed.
    const lost = this.#recording.failed === 'flush'
    await this.#try(
      () => this.#node.flush(),
      () => {
        if (lost) this.faults.push('a flush succeeds although one before it failed')
        this.#recording.log.push({ kind: 'guest flushed', flush })
      },
    )
  }

  async close(): Promise<void> {
    await this.#try(
      () => this.#node.driver.close(),
      () => undefined,
    )
  }

  #pick(weights: Weights): keyof Weights {
    const entries = Object.entries(weights) as [keyof Weights, number][]
    let at = this.#below(entries.reduce((sum, [, weight]) => sum + weight, 0))
    for (const [name, weight] of entries) {
      if (at < weight) return name
      at -= weight
    }
    return 'write'
  }

  /** Where a request goes: anywhere, or on whole clusters. */
  #place(op: 'write' | 'zero' | 'discard', whole: boolean): GuestChange | undefined {
    const sectors = this.#node.length() / 512
    const unit = whole || this.#below(3) === 0 ? this.#shape.clusterSize / 512 : 1
    const most = [this.#shape.longest, 4, unit][this.#below(3)] ?? 1
    const sector = Math.floor(this.#below(sectors) / unit) * unit
    const count = Math.min(Math.ceil((1 + this.#below(most)) / unit) * unit, sectors - sector, MOST)
    if (count === 0) return undefined
    return { op, sector, count, stamp: op === 'write' ? this.#stamp++ : 0 }
  }

  async #request(change: GuestChange, compressed: boolean, slot: number): Promise<void> {
    const { op, sector, count } = change
    const [offset, length] = [sector * 512, count * 512]
    if (op === 'write') this.#fill(slot, change)
    const unmap = this.#below(2) === 0
    await this.#change(change, () => {
      if (op === 'write') return this.#node.write(offset, { slot, offset: 0, length }, { compressed })
      if (op === 'zero') return this.#node.zero(offset, length, { unmap, fast: false })
      return this.#node.discard(offset, length)
    })
  }

  #fill(slot: number, { sector, count, stamp }: GuestChange): void {
    const { buffer, byteOffset } = this.#lab.engine.slotBytes(slot)
    fillSectors(Buffer.from(buffer, byteOffset, count * 512), sector, count, stamp)
  }

  async #resize(): Promise<void> {
    const before = this.#node.length() / 512
    const after = 1 + this.#below(this.#shape.largest / 512)
    const change: GuestChange = { op: 'resize', sector: before, count: after, stamp: 0 }
    await this.#change(change, () => this.#node.resize(after * 512))
  }

  async #change(change: GuestChange, work: () => Promise<void>): Promise<void> {
    const { log } = this.#recording
    log.push({ kind: 'guest began', change })
    await this.#try(work, () => log.push({ kind: 'guest done', change }))
  }

  async #try(work: () => Promise<void>, well: () => void): Promise<void> {
    try {
      await work()
      well()
    } catch (error) {
      if (!(error instanceof IoError) || this.#recording.failed === undefined) throw error
      this.failures += 1
    }
  }
}

function overlaps(one: GuestChange, other: GuestChange): boolean {
  return one.sector < other.sector + other.count && other.sector < one.sector + one.count
}
