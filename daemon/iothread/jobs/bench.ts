// SPDX-License-Identifier: Apache-2.0
// Bench: reads or writes a node in a fixed pattern and tells how long that took, as `qemu-img bench` does.
// Used for `x-bench`. Each of `depth` lanes takes the next request as soon as its last one has ended.
//
// What is read is not looked at and what is written is all alike, so lanes share buffers where each cannot have its own.

import { EIO } from '../../common/errno.js'
import type { JobReceipt, JobResult } from '../../common/job-messages.js'
import { Cancelled, IoError } from '../../errors.js'
import type { Claim } from '../block/claims.js'
import type { Permissions, Slice } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import { type BlockNode, SECTOR } from '../block/node.js'
import type { Buffers } from '../copy/buffers.js'
import { takeSlot } from '../copy/pace.js'
import { TaskPool } from '../copy/task-pool.js'
import type { BenchSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Stopwatch } from './stopwatch.js'

/** Slots held at once at most; drivers below need some as well. */
const MOST_SLOTS = 32
/** Requests of one lane between two looks whether messages came. */
const TURN = 64

const READS: Permissions = { use: ['consistent read'], share: ['consistent read', 'write unchanged'] }
const WRITES: Permissions = { use: ['consistent read', 'write'], share: ['write unchanged'] }

/** One request under way at most: its buffer, as pieces of slots that lie behind each other in the image. */
type Lane = readonly Slice[]

export class BenchJob implements JobBody {
  readonly #spec: BenchSpec
  readonly #graph: Graph
  readonly #node: BlockNode
  readonly #buffers: Buffers
  readonly #control: JobControl
  readonly #stopwatch = new Stopwatch()
  readonly #slots: number[] = []
  #claim: Claim | undefined
  #started = 0
  #done = 0
  #offset: number
  #microseconds = 0
  #flushed: JobReceipt['flush'] = 'not-reached'

  constructor(spec: BenchSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#node = graph.node(spec.node)
    this.#buffers = buffers
    this.#control = control
    this.#offset = spec.offset
  }

  async prepare(): Promise<void> {
    this.#claim = await this.#graph.claim('block job: x-bench', this.#node, this.#spec.write ? WRITES : READS)
  }

  async run(): Promise<void> {
    const { depth, count, flushInterval, drain } = this.#spec
    const lanes = await this.#lanes(Math.min(depth, count))
    this.#control.phase('bulk')
    this.#stopwatch.enter('bulk')
    const flushes = new TaskPool(depth)
    const begin = performance.now()
    try {
      while (this.#started < count) {
        const next = (Math.floor(this.#started / flushInterval) + 1) * flushInterval
        const end = flushInterval > 0 && drain ? Math.min(count, next) : count
        await this.#round(lanes, end, flushes)
        if (this.#started === next && drain) await this.#flush()
        await this.#checkpoint()
      }
      await flushes.idle()
      this.#microseconds = Math.round((performance.now() - begin) * 1000)
      if (this.#spec.write) await this.#flush()
    } finally {
      await flushes.settle()
      this.#stopwatch.stop()
    }
  }

  /** Lets the lanes run until request number `end` was started and all have ended. */
  async #round(lanes: readonly Lane[], end: number, flushes: TaskPool): Promise<void> {
    const ends = await Promise.allSettled(lanes.map((lane) => this.#run(lane, end, flushes)))
    for (const lane of ends) if (lane.status === 'rejected') throw lane.reason
  }

  async #run(lane: Lane, end: number, flushes: TaskPool): Promise<void> {
    const { flushInterval, drain, count } = this.#spec
    try {
      for (let turn = 1; this.#started < end && !this.#control.pausing; turn++) {
        if (this.#control.signal.aborted) throw new Cancelled()
        this.#started += 1
        await this.#request(lane, this.#nextOffset())
        this.#done += 1
        if (flushInterval > 0 && !drain && this.#done % flushInterval === 0)
          await flushes.start(() => this.#flush())
        if (turn % TURN === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    } catch (error) {
      // The other lanes start nothing more.
      this.#started = count
      throw error
    }
  }

  /** Where the next request begins; behind the end of the image it goes on from the beginning. */
  #nextOffset(): number {
    const offset = this.#offset
    const length = this.#length()
    this.#offset = length === 0 ? 0 : (offset + this.#spec.step) % length
    return offset
  }

  async #request(lane: Lane, offset: number): Promise<void> {
    if (offset + this.#spec.size > this.#length())
      throw new IoError(EIO, this.#spec.write ? 'write' : 'read', this.#node.name, offset, this.#spec.size)
    const [first] = lane
    if (lane.length === 1 && first !== undefined) return this.#transfer(offset, first)
    let at = offset
    const parts = lane.map((slice) => {
      const part = this.#transfer(at, slice)
      at += slice.length
      return part
    })
    for (const part of await Promise.allSettled(parts)) if (part.status === 'rejected') throw part.reason
  }

  async #transfer(offset: number, slice: Slice): Promise<void> {
    if (this.#spec.write) await this.#node.write(offset, slice)
    else await this.#node.read(offset, slice)
  }

  async #flush(): Promise<void> {
    this.#flushed = 'failed'
    await this.#node.flush()
    this.#flushed = this.#node.options.noFlush ? 'disabled' : 'ok'
  }

  /** In whole sectors, as users know it. */
  #length(): number {
    return Math.ceil(this.#node.length() / SECTOR) * SECTOR
  }

  async #checkpoint(): Promise<void> {
    if (this.#control.pausing) await this.#control.pausePoint()
  }

  /** Gives each lane a buffer of `size` bytes; small ones share a slot without touching each other. */
  async #lanes(count: number): Promise<Lane[]> {
    const { size } = this.#spec
    const { slotSize } = this.#buffers
    const perSlot = size < slotSize ? Math.floor(slotSize / alignUp(size)) : 1
    const perLane = Math.max(1, Math.ceil(size / slotSize))
    const wanted = Math.ceil(count / perSlot) * perLane
    const most = Math.max(perLane, Math.floor(MOST_SLOTS / perLane) * perLane)
    while (this.#slots.length < Math.min(wanted, most))
      this.#slots.push(await takeSlot(this.#buffers, this.#control, () => this.#checkpoint()))
    for (const slot of this.#slots) this.#buffers.bytes(slot).fill(this.#spec.pattern)
    return Array.from({ length: count }, (_, index) =>
      Array.from({ length: perLane }, (_, part) => ({
        slot: this.#slots[(Math.floor(index / perSlot) * perLane + part) % this.#slots.length] ?? 0,
        offset: (index % perSlot) * alignUp(size),
        length: Math.min(slotSize, size - part * slotSize),
      })),
    )
  }

  progress(): BodyProgress {
    const { count, size } = this.#spec
    const busy = this.#started > this.#done
    return { offset: this.#done * size, len: count * size, busy, activelySynced: false }
  }

  receipt(): JobReceipt {
    const copied = this.#done * this.#spec.size
    return { copied, zeroed: 0, skipped: 0, flush: this.#flushed, durations: this.#stopwatch.durations() }
  }

  result(): JobResult {
    return { requests: this.#done, bytes: this.#done * this.#spec.size, microseconds: this.#microseconds }
  }

  async finalize(): Promise<void> {
    for (const slot of this.#slots.splice(0)) this.#buffers.give(slot)
    await this.#claim?.release()
  }
}

/** Buffers begin where O_DIRECT can use them. */
function alignUp(size: number): number {
  return Math.ceil(size / 4096) * 4096
}
