// SPDX-License-Identifier: Apache-2.0
// Mirror: makes the target equal to the source and keeps it so until somebody asks to complete. The work is the copy
// engine's; this file decides what is dirty at the start, when the job is ready, and what success takes.
//
// Success means: every range accounted for, the target flushed without an error, nothing dirty since. To see that, the
// source's users are held up at the end. Completed by a pivot, the target takes the source's place for them.

import type { CopyMode, JobReceipt } from '../../common/job-messages.js'
import { CommandError, IoError } from '../../errors.js'
import type { Claim } from '../block/claims.js'
import type { Permission, Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import { type BlockNode, SECTOR } from '../block/node.js'
import type { TopFilter } from '../block/top-filters.js'
import type { Buffers } from '../copy/buffers.js'
import { DirtyBitmap } from '../copy/dirty-bitmap.js'
import { type CopyControl, CopyEngine } from '../copy/engine.js'
import { RateLimit } from '../copy/rate-limit.js'
import { WriteThrough } from '../copy/write-through.js'
import type { MirrorSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Stopwatch } from './stopwatch.js'

const DEFAULT_GRANULARITY = 65536
const DEFAULT_BUFFER = 16 * 2 ** 20
/** What the source's other users may do: as QEMU has it, write too. */
const SHARED: readonly Permission[] = ['consistent read', 'write', 'write unchanged']
/** Writes of other programs are not seen here, so a one-shot copy, which is to be equal in the end, excludes them. */
const SHARED_ONE_SHOT: readonly Permission[] = ['consistent read', 'write unchanged']
/** Bytes that are copied while the source's users wait, at most: a moment at the speed of a disk. */
const LAST_BYTES = 16 * 2 ** 20
/** Longest bitmap, bits: a quarter of a GiB of memory. With the default granularity that covers 128 TiB. */
const MAX_CHUNKS = 2 ** 31

/** Who holds the claims of a mirror, as errors name it. */
export const MIRROR_USER = 'block job: mirror'

/** What a mirror needs of its source. @param oneShot  it ends by itself when it is ready */
export function sourcePermissions(oneShot: boolean): Permissions {
  return { use: ['consistent read'], share: oneShot ? SHARED_ONE_SHOT : SHARED }
}

const TARGET_PERMISSIONS: Permissions = { use: ['write'], share: ['write unchanged'] }

export class MirrorJob implements JobBody {
  readonly #spec: MirrorSpec
  readonly #graph: Graph
  readonly #source: BlockNode
  readonly #target: BlockNode
  readonly #bitmap: DirtyBitmap
  readonly #limit: RateLimit
  readonly #stopwatch = new Stopwatch()
  readonly #held: (() => void | Promise<void>)[] = []
  readonly #control: JobControl
  readonly #engine: CopyEngine
  readonly #through: WriteThrough
  readonly #claims: Claim[] = []
  #filter: TopFilter | undefined
  /** Holds the source's users up while the last is copied, and from then on until finalize(). */
  #hold: Disposable | undefined
  #copyMode: CopyMode
  /** It is to end with success, once it is ready. */
  #ending = false
  #pivot = false
  /** The target is not this job's any more. */
  #over = false
  /** How the flush went of what was copied last. */
  #flushed: 'not-reached' | 'ok' | 'failed' = 'not-reached'
  /** Bytes known to be there to do; grows with writes to what was done already. */
  #len = 0

  constructor(spec: MirrorSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#control = control
    this.#source = graph.node(spec.source)
    this.#target = graph.node(spec.target)
    this.#copyMode = spec.copyMode
    this.#limit = new RateLimit(spec.speed)
    const length = this.#source.length()
    this.#bitmap = new DirtyBitmap(length, granularityFor(length, spec.granularity))
    this.#engine = new CopyEngine({
      source: this.#source,
      target: this.#target,
      bitmap: this.#bitmap,
      limit: this.#limit,
      control: this.#letGoInPauses(control),
      buffers,
      tasks: Math.max(1, Math.floor(this.#bufferSize() / buffers.slotSize)),
      piece: Math.min(buffers.slotSize, this.#bufferSize()),
      unmap: spec.unmap,
      targetIsZero: spec.targetIsZero,
    })
    this.#through = new WriteThrough(
      this.#engine,
      () => this.#writesThrough(),
      (bytes) => {
        this.#len += bytes
      },
      (offset, bytes) => this.#dirtied(offset, bytes),
    )
  }

  async prepare(): Promise<void> {
    const spec = this.#spec
    try {
      await this.#claim(this.#source, sourcePermissions(spec.autoComplete))
      await this.#claim(this.#target, TARGET_PERMISSIONS)
      if (this.#source.length() !== this.#bitmap.length)
        throw new CommandError(
          `Node '${this.#source.name}' was resized by another program just now; try again`,
        )
      const { granularity } = this.#bitmap
      const bitmap = () => ({ granularity, count: this.#bitmap.count })
      const filter = this.#graph.insertFilter(spec.filter, this.#source, bitmap, this.#through)
      this.#filter = filter
      this.#held.push(
        () => filter.remove(),
        () => this.#release(),
      )
      const listener = this.#source.addDirtyListener((offset, length) => {
        if (!this.#through.covers(offset, length)) this.#dirtied(offset, length)
      })
      this.#held.push(() => listener[Symbol.dispose]())
    } catch (error) {
      await this.#letGo()
      throw error
    }
  }

  /** Bytes in flight at most: what was asked for, rounded up to the granularity. */
  #bufferSize(): number {
    const { granularity } = this.#bitmap
    return Math.ceil((this.#spec.bufSize || DEFAULT_BUFFER) / granularity) * granularity
  }

  async run(): Promise<void> {
    this.#stopwatch.enter('probe')
    await this.#equalizeLength()
    this.#len += await this.#markDirty()
    await this.#synchronize('bulk')
    this.#phase('ready')
    this.#control.ready()
    if (this.#spec.autoComplete) this.#ending = true
    await this.#keepSynchronized()
    await this.#quiesce()
  }

  /** What is to be copied at first. Only formats know what was never stored; other storage is looked at while it is copied. */
  async #markDirty(): Promise<number> {
    const { sync } = this.#spec
    if (sync === 'none') return 0
    const format = this.#graph.format(this.#source)
    if (format === undefined) return this.#engine.dirtyAll()
    const shallow = sync === 'top' && format.backing !== undefined
    return await this.#engine.dirtyAllocated(shallow ? 'top' : 'all')
  }

  /**
   * Stops the source's users at a moment when the target is equal and durable; they go on after finalize().
   * They wait at the filter first, where the last is still copied; who uses the source itself waits only then.
   */
  async #quiesce(): Promise<void> {
    for (;;) {
      if (!this.#nearlyDone()) await this.#synchronize('converge')
      this.#hold = await this.#filter?.node.drain()
      if (this.#nearlyDone()) await this.#synchronize('converge')
      const quiet = await this.#source.drain()
      if (this.#hold !== undefined && this.#bitmap.clean) {
        this.#held.push(() => quiet[Symbol.dispose]())
        return
      }
      quiet[Symbol.dispose]()
      this.#release()
    }
  }

  /** So little is dirty that the source's users may wait for it. */
  #nearlyDone(): boolean {
    return this.#engine.remaining <= LAST_BYTES
  }

  #release(): void {
    this.#hold?.[Symbol.dispose]()
    this.#hold = undefined
  }

  /** Nobody waits for a job that is paused. */
  #letGoInPauses(control: JobControl): CopyControl {
    const aborted = new Promise<void>((resolve) => {
      control.signal.addEventListener('abort', () => resolve(), { once: true })
    })
    const pausePoint = async () => {
      this.#release()
      const { pausing } = control
      await control.pausePoint()
      // What was lost meanwhile is looked for before it is asked for: else its first answer would be the loss.
      if (pausing) await Promise.race([this.#graph.revive([this.#spec.source, this.#spec.target]), aborted])
    }
    return {
      get signal() {
        return control.signal
      },
      get pausing() {
        return control.pausing
      },
      pausePoint,
      wait: (timeoutMs) => control.wait(timeoutMs),
      wake: () => control.wake(),
      ioError: (operation, error, fatal) => control.ioError(operation, error, fatal),
    }
  }

  /** Lengths must be the same to the sector; within the last sector the target follows the source, or reads as zero. */
  async #equalizeLength(): Promise<void> {
    const [source, target] = [this.#source.length(), this.#target.length()]
    if (Math.ceil(source / SECTOR) !== Math.ceil(target / SECTOR))
      throw new Error('Source and target image have different sizes')
    if (target === source) return
    this.#engine.touched()
    if (target < source) await this.#target.resize(source)
    else await this.#target.zero(source, target - source, { unmap: false, fast: false })
  }

  /**
   * Copies what is dirty, then flushes; again, when something was written meanwhile. When the job is to end, the last is
   * left for when nobody writes.
   */
  async #synchronize(phase: 'bulk' | 'converge'): Promise<void> {
    const last = phase === 'converge'
    const enough = () => last && this.#ending && this.#hold === undefined && this.#nearlyDone()
    do {
      if (!this.#bitmap.clean) {
        this.#flushed = 'not-reached'
        this.#phase(phase)
        await this.#engine.copyDirty(enough)
      }
      this.#phase('flush')
      await this.#flush()
    } while (!this.#bitmap.clean && !enough())
  }

  async #flush(): Promise<void> {
    try {
      await this.#engine.flush()
      this.#flushed = 'ok'
    } catch (error) {
      // Not left to the policy: after a failed flush nobody knows what is on the disk.
      this.#flushed = 'failed'
      if (error instanceof IoError) this.#control.ioError('write', error, true)
      throw error
    }
  }

  async #keepSynchronized(): Promise<void> {
    while (!this.#ending) {
      if (this.#control.pausing) await this.#control.pausePoint()
      else if (!this.#bitmap.clean) {
        await this.#synchronize('converge')
        this.#phase('ready')
      } else await this.#control.wait()
    }
    if (this.#control.pausing) await this.#control.pausePoint()
  }

  /** No further change waits for the target of a job that is paused: it may be why. */
  #writesThrough(): boolean {
    const { pausing, signal } = this.#control
    return this.#copyMode === 'write-blocking' && !pausing && !signal.aborted && !this.#over
  }

  #dirtied(offset: number, length: number): void {
    this.#len += this.#engine.dirtied(offset, length)
    this.#control.wake()
  }

  #phase(phase: 'bulk' | 'converge' | 'ready' | 'flush'): void {
    this.#stopwatch.enter(phase)
    this.#control.phase(phase)
  }

  progress(): BodyProgress {
    return {
      offset: this.#len - this.#engine.remaining,
      len: this.#len,
      busy: this.#engine.busy,
      activelySynced:
        this.#bitmap.clean && (this.#copyMode === 'write-blocking' || this.#source.length() === 0),
    }
  }

  receipt(): JobReceipt {
    this.#stopwatch.stop()
    const { copied, zeroed, skipped } = this.#engine.counters
    const flush = this.#flushed === 'ok' && this.#target.options.noFlush ? 'disabled' : this.#flushed
    return { copied, zeroed, skipped, flush, durations: this.#stopwatch.durations() }
  }

  complete(pivot: boolean): void {
    this.#pivot = pivot
    this.#ending = true
    this.#control.wake()
  }

  setSpeed(bytesPerSecond: number): void {
    this.#limit.set(bytesPerSecond)
    this.#control.wake()
  }

  change(copyMode: CopyMode): void {
    this.#copyMode = copyMode
  }

  async finalize(commit: boolean): Promise<void> {
    const { ownsTarget, target } = this.#spec
    this.#over = true
    await this.#through.idle()
    try {
      // A target that is closed now takes nobody's place.
      if (commit && this.#pivot && !ownsTarget && this.#filter !== undefined)
        await this.#graph.pivot(this.#filter, this.#target, this.#claims)
    } finally {
      await this.#letGo()
    }
    if (ownsTarget) await this.#graph.remove(target)
  }

  async #claim(node: BlockNode, permissions: Permissions): Promise<void> {
    const claim = await this.#graph.claim(MIRROR_USER, node, permissions)
    this.#claims.push(claim)
    this.#held.push(() => claim.release())
  }

  /** Releases what prepare() took, last first. */
  async #letGo(): Promise<void> {
    for (let release = this.#held.pop(); release !== undefined; release = this.#held.pop()) await release()
  }
}

/**
 * Bytes per dirty bit; of a very large disk more than by default.
 * @param wanted  0 = default
 * @throws CommandError for one so fine that the bitmap would not fit into memory
 */
function granularityFor(length: number, wanted: number): number {
  const least = 2 ** Math.ceil(Math.log2(Math.max(1, length / MAX_CHUNKS)))
  if (wanted === 0) return Math.max(DEFAULT_GRANULARITY, least)
  if (wanted < least)
    throw new CommandError(`Parameter 'granularity' expects at least ${least} for a disk of ${length} bytes`)
  return wanted
}
