// SPDX-License-Identifier: Apache-2.0
// Compare: whether two nodes read alike, as `qemu-img compare` tells it. Used for `x-compare`.
// What both prove to be zero is not read; where one does, the other is looked at for anything but zeroes. What lies
// beyond the end of the shorter one counts as zeroes.
// Invariant: ranges are looked at in ascending order and all that began is waited for, so the first difference is known.

import type { JobReceipt, JobResult } from '../../common/job-messages.js'
import { CommandError, IoError } from '../../errors.js'
import type { Claim } from '../block/claims.js'
import type { Extent, Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import { type BlockNode, SECTOR } from '../block/node.js'
import type { Buffers } from '../copy/buffers.js'
import { takeSlot } from '../copy/pace.js'
import { TaskPool } from '../copy/task-pool.js'
import type { CompareSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Stopwatch } from './stopwatch.js'

/** Ranges compared at once; each has a slot, or a run of two. */
const TASKS = 8
/** Longest time without looking whether messages came, milliseconds. */
const TURN = 10

const PERMISSIONS: Permissions = { use: ['consistent read'], share: ['consistent read', 'write unchanged'] }

/** Why two nodes are not alike. */
type Difference =
  | { readonly kind: 'content' | 'status'; readonly offset: number }
  | { readonly kind: 'size'; readonly offset: number }

export class CompareJob implements JobBody {
  readonly #spec: CompareSpec
  readonly #graph: Graph
  readonly #one: Side
  readonly #other: Side
  readonly #buffers: Buffers
  readonly #control: JobControl
  readonly #stopwatch = new Stopwatch()
  readonly #claims: Claim[] = []
  /** Bytes by what was done with them. */
  #read = 0
  #skipped = 0
  #difference: Difference | undefined
  #running = 0

  constructor(spec: CompareSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#one = new Side(graph.node(spec.node), spec.strict)
    this.#other = new Side(graph.node(spec.other), spec.strict)
    this.#buffers = buffers
    this.#control = control
  }

  async prepare(): Promise<void> {
    try {
      for (const { node } of [this.#one, this.#other])
        this.#claims.push(await this.#graph.claim('block job: x-compare', node, PERMISSIONS))
    } catch (error) {
      await this.finalize()
      throw error
    }
  }

  async run(): Promise<void> {
    this.#stopwatch.enter('bulk')
    this.#control.phase('bulk')
    const shorter = Math.min(this.#one.length, this.#other.length)
    if (this.#spec.strict && this.#one.length !== this.#other.length)
      this.#difference = { kind: 'size', offset: shorter }
    else await this.#compare()
    this.#stopwatch.stop()
  }

  async #compare(): Promise<void> {
    const pool = new TaskPool(TASKS)
    const length = Math.max(this.#one.length, this.#other.length)
    let heard = performance.now()
    try {
      for (let at = 0; at < length && this.#difference === undefined; ) {
        if (performance.now() - heard > TURN) {
          await new Promise((resolve) => setImmediate(resolve))
          heard = performance.now()
        }
        await this.#checkpoint(pool)
        at += await this.#step(at, pool)
      }
      await pool.idle()
    } finally {
      await pool.settle()
    }
  }

  async #checkpoint(pool: TaskPool): Promise<void> {
    if (!this.#control.pausing && !this.#control.signal.aborted) return
    await pool.idle()
    await this.#control.pausePoint()
  }

  /** Begins one range. @returns its length */
  async #step(at: number, pool: TaskPool): Promise<number> {
    const one = await this.#one.extent(at)
    const other = await this.#other.extent(at)
    let length = Math.min(one.offset + one.length, other.offset + other.length) - at
    if (this.#spec.strict && !sameStatus(one, other)) {
      this.#differs({ kind: 'status', offset: at })
      return length
    }
    if (one.kind === 'zero' && other.kind === 'zero') {
      this.#skipped += length
      return length
    }
    length = Math.min(length, this.#buffers.slotSize)
    const sides = [one.kind === 'data' && this.#one, other.kind === 'data' && this.#other].filter(
      (side) => side !== false,
    )
    await pool.room()
    // Two at once, as a run: jobs that each hold one and wait for another would wait for ever.
    const run = sides.length * this.#buffers.slotSize
    const slot = await takeSlot(this.#buffers, this.#control, () => this.#checkpoint(pool), run)
    const task = async () => {
      this.#running += 1
      try {
        await this.#look(at, length, sides, slot)
      } finally {
        this.#running -= 1
        this.#buffers.give(slot)
      }
    }
    await pool.start(task).catch((error: unknown) => {
      // An earlier range failed while a buffer was waited for: this one was not begun.
      this.#buffers.give(slot)
      throw error
    })
    return length
  }

  /** Reads one side, to see that it is zero, or both, one behind the other, to see that they are alike. */
  async #look(at: number, length: number, sides: readonly Side[], slot: number): Promise<void> {
    const { slotSize } = this.#buffers
    const parts = sides.map((side, index) => ({ side, into: { slot, offset: index * slotSize, length } }))
    const reads = parts.map(({ side, into }) => side.read(at, into, sides.length === 1))
    const results = await Promise.allSettled(reads)
    for (const result of results) if (result.status === 'rejected') throw result.reason
    const bytes = this.#buffers.bytes(slot)
    const [one, other] = parts.map(({ into: { offset } }) => bytes.subarray(offset, offset + length))
    const [first] = results
    const zero = sides.length === 1 && first?.status === 'fulfilled' && first.value
    const unlike = one === undefined || zero ? undefined : firstDifference(one, other)
    if (unlike !== undefined) this.#differs({ kind: 'content', offset: at + unlike })
    this.#read += length
  }

  /** The difference that comes first in the image counts. */
  #differs(difference: Difference): void {
    if (this.#difference === undefined || difference.offset < this.#difference.offset)
      this.#difference = difference
  }

  progress(): BodyProgress {
    const len = Math.max(this.#one.length, this.#other.length)
    return { offset: this.#read + this.#skipped, len, busy: this.#running > 0, activelySynced: false }
  }

  receipt(): JobReceipt {
    const durations = this.#stopwatch.durations()
    return { copied: this.#read, zeroed: 0, skipped: this.#skipped, flush: 'not-reached', durations }
  }

  result(): JobResult {
    const difference = this.#difference
    return {
      identical: difference === undefined,
      'size-mismatch': this.#one.length !== this.#other.length,
      ...(difference !== undefined && { difference: difference.kind, offset: difference.offset }),
    }
  }

  async finalize(): Promise<void> {
    for (const claim of this.#claims.splice(0)) await claim.release()
  }
}

/** One of the two, with the extent it was asked for last: the other's may be much shorter. */
class Side {
  readonly node: BlockNode
  readonly #places: boolean
  #extent: Extent | undefined

  /** @param places  whether data and zeroes have a place is wanted too */
  constructor(node: BlockNode, places: boolean) {
    this.node = node
    this.#places = places
  }

  /** In whole sectors, as users know it. */
  get length(): number {
    return Math.ceil(this.node.length() / SECTOR) * SECTOR
  }

  /** What reaches from `offset` on; zero beyond the end. */
  async extent(offset: number): Promise<Extent> {
    const { length } = this
    if (offset >= length)
      return { offset, length: Number.MAX_SAFE_INTEGER - offset, kind: 'zero', allocated: false }
    const known = this.#extent
    if (known !== undefined && known.offset <= offset && offset < known.offset + known.length) return known
    const how = { places: this.#places }
    this.#extent = await this.node.status(offset, length - offset, how).catch((error: unknown) => {
      throw this.#named(error)
    })
    return this.#extent
  }

  /** @returns with `scan`: whether it is all zero */
  async read(offset: number, into: Parameters<BlockNode['read']>[1], scan: boolean): Promise<boolean> {
    try {
      return await this.node.read(offset, into, { scan })
    } catch (error) {
      throw this.#named(error)
    }
  }

  /** Of two nodes it must be known which one failed. */
  #named(error: unknown): unknown {
    if (!(error instanceof IoError)) return error
    return new CommandError(`node '${this.node.name}': ${error.message}`, 'GenericError', { cause: error })
  }
}

/**
 * Alike in all that `qemu-img compare -s` looks at: data or zeroes, written or never, with a place or without. In which layer does not
 * matter, nor where an extent ends: qemu-img takes data in one piece and in several for unlike.
 */
function sameStatus(one: Extent, other: Extent): boolean {
  return (
    one.kind === other.kind &&
    (one.host === undefined) === (other.host === undefined) &&
    (one.absent ?? false) === (other.absent ?? false) &&
    (one.hole ?? false) === (other.hole ?? false) &&
    (one.compressed ?? false) === (other.compressed ?? false)
  )
}

/** First sector that differs (or, of one alone, is not zero), bytes from the start; undefined when all are alike. */
function firstDifference(one: Uint8Array, other: Uint8Array | undefined): number | undefined {
  if (other !== undefined && Buffer.compare(one, other) === 0) return undefined
  for (let at = 0; at < one.length; at += SECTOR) {
    const sector = one.subarray(at, at + SECTOR)
    const alike = Buffer.compare(
      sector,
      other?.subarray(at, at + SECTOR) ?? ZEROES.subarray(0, sector.length),
    )
    if (alike !== 0) return at
  }
  return undefined
}

const ZEROES = new Uint8Array(SECTOR)
