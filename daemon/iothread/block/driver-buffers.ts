// SPDX-License-Identifier: Apache-2.0
// Buffers that format drivers of a worker keep for themselves: jobs may hold every other slot while they wait for a
// driver, so a driver must never wait for theirs. Made by the graph with the first format; used by formats.
// Kinds, so that nobody waits for a buffer while holding one of the same kind: `tables` wait for storage only,
// `packed` and `long` (compressed data) too, `copies` (copy on write) may wait for packed ones below. `zeroes` is everybody's.

import type { IoEngine } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { Slice } from './driver.js'

/** Bytes of one buffer for tables. */
export const TABLE_BUFFER = 65536
/** Longest cluster of a format, bytes. */
const LONGEST_CLUSTER = 2 << 20
const LONG_RUNS = 2
const PACKED_SLOTS = 4
const COPY_SLOTS = 4

export class DriverBuffers {
  readonly engine: IoEngine
  readonly tables: SlicePool
  readonly packed: SlicePool
  /** For clusters that do not fit into one slot. */
  readonly long: SlicePool
  readonly copies: SlicePool
  /** Reads as zero and is never written. */
  readonly zeroes: Slice
  readonly #slots: readonly number[]

  /** @throws CommandError when the engine has not as many free slots */
  constructor(engine: IoEngine) {
    this.engine = engine
    // Those for compressed data first, that of tables last: the engine has slots in memory by groups, from the moment one of the group is
    // used, and tables share theirs with the first slots of a job.
    const runs = takeRuns(engine, LONG_RUNS, LONGEST_CLUSTER)
    const slots = engine.takeSlots(PACKED_SLOTS + COPY_SLOTS + 1)
    const table = slots.at(-1)
    if (table === undefined || slots.length < PACKED_SLOTS + COPY_SLOTS + 1 || runs.length < LONG_RUNS) {
      engine.giveSlots([...slots, ...runs])
      throw new CommandError('no free buffers for another image format; let running jobs end first')
    }
    this.#slots = [...runs, ...slots]
    const whole = (slot: number): Slice => ({ slot, offset: 0, length: engine.slotSize })
    const pieces = Array.from({ length: Math.floor(engine.slotSize / TABLE_BUFFER) }, (_, index) => ({
      slot: table,
      offset: index * TABLE_BUFFER,
      length: TABLE_BUFFER,
    }))
    this.zeroes = { slot: table, offset: 0, length: TABLE_BUFFER }
    engine.slotBytes(table).fill(0, 0, TABLE_BUFFER)
    this.tables = new SlicePool(pieces.slice(1))
    this.packed = new SlicePool(slots.slice(0, PACKED_SLOTS).map(whole))
    this.long = new SlicePool(runs.map((slot) => ({ slot, offset: 0, length: LONGEST_CLUSTER })))
    this.copies = new SlicePool(slots.slice(PACKED_SLOTS, -1).map(whole))
  }

  /** No format is open any more. */
  giveBack(): void {
    this.engine.giveSlots(this.#slots)
  }
}

/** Runs of slots, or fewer when there are no more. @param length  of each, bytes */
export function takeRuns(engine: IoEngine, count: number, length: number): number[] {
  const runs: number[] = []
  while (runs.length < count) {
    const run = engine.takeRun(length)
    if (run === undefined) break
    runs.push(run)
  }
  return runs
}

/** Equal slices, lent one or several at a time; whoever asks first is served first. */
export class SlicePool {
  readonly #free: Slice[]
  readonly #all: number
  readonly #line: { readonly count: number; readonly resolve: (slices: Slice[]) => void }[] = []

  constructor(slices: readonly Slice[]) {
    this.#free = [...slices]
    this.#all = slices.length
  }

  /**
   * @param count  slices wanted, all at once; at most as many as there are
   * @returns a loan that ends with its dispose
   */
  async take(count = 1): Promise<Loan> {
    if (count > this.#all) throw new RangeError(`${count} of ${this.#all} buffers`)
    if (this.#line.length === 0 && this.#free.length >= count) return this.#loan(this.#free.splice(-count))
    return this.#loan(await new Promise<Slice[]>((resolve) => this.#line.push({ count, resolve })))
  }

  #loan(slices: Slice[]): Loan {
    return {
      slices,
      [Symbol.dispose]: () => {
        this.#free.push(...slices.splice(0))
        for (let next = this.#line[0]; next !== undefined; next = this.#line[0]) {
          if (this.#free.length < next.count) return
          this.#line.shift()
          next.resolve(this.#free.splice(-next.count))
        }
      },
    }
  }
}

export interface Loan extends Disposable {
  readonly slices: readonly Slice[]
}
