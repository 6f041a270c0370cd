// SPDX-License-Identifier: Apache-2.0
// Backup: copies the source as it was when the job started. The work is the copy engine's; what changes of the source are about
// to replace is copied before them. This file decides what is to be copied, and what success takes.
//
// Success means: everything of that moment is in the target, and the target was flushed without an error.

import { type GiveBack, giveBack } from '../../common/give-back.js'
import type { JobReceipt } from '../../common/job-messages.js'
import { CommandError, IoError } from '../../errors.js'
import { BeforeWrite } from '../block/before-write.js'
import type { BitmapUse } from '../block/bitmaps/bitmap-use.js'
import type { Claim } from '../block/claims.js'
import { type Area, DirtyBitmap } from '../block/dirty-bitmap.js'
import type { Permission, Permissions } from '../block/driver.js'
import { chunkFor, wholePiece } from '../block/granularity.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { Snapshot } from '../block/snapshot.js'
import type { Buffers } from '../copy/buffers.js'
import { Courtesy } from '../copy/courtesy.js'
import { CopyEngine } from '../copy/engine.js'
import type { CopyControl } from '../copy/pace.js'
import { Patience } from '../copy/patience.js'
import { RateLimit } from '../copy/rate-limit.js'
import type { BackupSpec } from '../messages-backup.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { checkLength, DIFFERENT_SIZES, equalizeLength, isSameSize } from './same-length.js'
import { takeBitmap } from './source-bitmap.js'
import { Stopwatch } from './stopwatch.js'
import { TargetFlush } from './target-flush.js'

/** Who holds the claims of a backup, as errors name it. */
export const BACKUP_USER = 'block job: backup'

const SHARED: readonly Permission[] = ['consistent read', 'write', 'write unchanged']

/** What a backup needs of its source. @param discards  what was copied is discarded there */
export function backupSourcePermissions(discards: boolean): Permissions {
  return { use: discards ? ['consistent read', 'write'] : ['consistent read'], share: SHARED }
}

export class BackupJob implements JobBody {
  readonly #spec: BackupSpec
  readonly #graph: Graph
  readonly #source: BlockNode
  readonly #target: BlockNode
  readonly #bitmap: DirtyBitmap
  readonly #snapshot: Snapshot
  readonly #guard: BeforeWrite
  readonly #engine: CopyEngine
  readonly #flush: TargetFlush
  readonly #limit: RateLimit
  readonly #patience: Patience
  readonly #control: JobControl
  readonly #stopwatch = new Stopwatch()
  readonly #held: GiveBack[] = []
  /** Why the snapshot was lost. */
  #failure: unknown
  #use: BitmapUse | undefined
  #len = 0
  /** It is known what is to be copied, and that is being done. */
  #copies = false

  /** @throws CommandError when there is no memory for its bitmap or its buffers */
  constructor(spec: BackupSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#control = control
    this.#source = graph.node(spec.source)
    this.#target = graph.node(spec.target)
    this.#limit = new RateLimit(spec.speed)
    const [source, target, length] = [this.#source, this.#target, this.#source.length()]
    const cluster = target.driver.limits.writeAlign ?? 1
    const bitmap = new DirtyBitmap(length, chunkFor(length, cluster, spec.minClusterSize))
    // Images of parts of a disk are put above others in the end.
    const image = graph.format(target)
    const covering = image !== undefined && (spec.sync !== 'full' || image.backing !== undefined)
    const how = { unmap: true, vouched: false, covering, compressed: spec.compress }
    const parts = { source, target, todo: bitmap, access: undefined, how }
    this.#bitmap = bitmap
    this.#snapshot = graph.snapshot(parts)
    const policy = { onError: spec.onCbwError, timeoutMs: spec.cbwTimeoutMs }
    this.#guard = new BeforeWrite(this.#snapshot, policy, graph.guests, (error) => this.#lost(error))
    const most = spec.maxChunk === 0 ? buffers.slotSize : Math.min(buffers.slotSize, spec.maxChunk)
    const piece = wholePiece(most, spec.compress ? cluster : target.driver.limits.writeWhole)
    const courtesy = new Courtesy(graph.guests, spec.workers * piece, () => spec.yielding)
    this.#patience = new Patience(courtesy)
    this.#engine = new CopyEngine({
      ...{ source, target, bitmap, buffers, limit: this.#limit, snapshot: this.#snapshot },
      ...{ control: this.#watched(control), unmap: true, targetIsZero: false, tasks: spec.workers },
      ...{ piece, courtesy },
      ...(spec.discardSource && { copied: (part: Area) => this.#discard(part) }),
    })
    this.#flush = new TargetFlush(target, this.#engine, control)
  }

  /** The moment that is copied is when this ends. */
  async prepare(): Promise<void> {
    const { filter: name, discardSource } = this.#spec
    this.#held.push(() => this.#snapshot.close())
    try {
      await this.#claim(this.#source, backupSourcePermissions(discardSource))
      await this.#claim(this.#target, this.#targetPermissions())
      checkLength(this.#source, this.#bitmap.length)
      if (!isSameSize(this.#source, this.#target)) throw new CommandError(DIFFERENT_SIZES)
      this.#use = await takeBitmap(this.#graph, this.#source, this.#spec.bitmap, this.#held)
      using _quiet = await this.#source.drain(this.#control.signal)
      const bitmap = () => this.#snapshot.bitmaps()
      const kind = { driver: 'copy-before-write' } as const
      const filter = this.#graph.insertFilter(name, this.#source, bitmap, kind)
      this.#held.push(() => filter.remove())
      this.#len = this.#markTodo()
      this.#graph.reportBitmaps()
      const hook = this.#source.addBeforeWrite((offset, length) => this.#guard.before(offset, length))
      this.#held.push(
        () => this.#guard.end(),
        () => hook[Symbol.dispose](),
      )
    } catch (error) {
      await giveBack(this.#held, { error })
    }
    // Who waits for a copy that nobody wants any more goes on at once, whatever the target does.
    this.#control.signal.addEventListener('abort', () => this.#guard.cancel(), { once: true })
  }

  /** What is to be copied, at the moment that is copied. @returns bytes */
  #markTodo(): number {
    const dirty = this.#use?.freeze()
    if (this.#spec.sync !== 'bitmap' || dirty === undefined) return this.#engine.dirtyAll()
    this.#bitmap.merge(dirty)
    return this.#bitmap.bytes
  }

  async run(): Promise<void> {
    this.#phase('probe')
    await equalizeLength(this.#source, this.#target, () => this.#engine.touched())
    if (this.#spec.sync === 'none') return this.#stay()
    if (this.#spec.sync === 'top' && this.#graph.format(this.#source)?.backing !== undefined)
      await this.#engine.dropUnallocated((bytes) => {
        this.#len -= bytes
      })
    this.#phase('bulk')
    await this.#engine.copyDirty()
    this.#phase('flush')
    await this.#flush.flush()
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Copies what is about to be replaced until the job is cancelled. */
  async #stay(): Promise<void> {
    this.#phase('bulk')
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure
      if (this.#control.pausing) await this.#control.pausePoint()
      else await this.#control.wait()
    }
  }

  #lost(error: unknown): void {
    this.#failure = error
    this.#control.wake()
  }

  /** The job's control, which ends the work when the snapshot is lost, and the snapshot when the work has failed. */
  #watched(control: JobControl): CopyControl {
    const failure = () => this.#failure
    return {
      get signal() {
        return control.signal
      },
      get pausing() {
        return control.pausing
      },
      get failure() {
        return failure()
      },
      pausePoint: () => control.pausePoint(),
      wait: (timeoutMs) => control.wait(timeoutMs),
      wake: () => control.wake(),
      ioError: (operation, error, fatal) => {
        const action = control.ioError(operation, error, fatal)
        // Nobody waits for a backup that has failed, also when what else is under way takes long.
        if (action === 'report') this.#guard.cancel()
        return action
      },
    }
  }

  /** Storage that was copied is given back where that is possible. */
  async #discard({ offset, length }: Area): Promise<void> {
    try {
      await this.#source.discard(offset, length)
    } catch (error) {
      if (!(error instanceof IoError)) throw error
    }
  }

  #phase(phase: 'probe' | 'bulk' | 'flush'): void {
    this.#copies = phase === 'bulk'
    this.#stopwatch.enter(phase)
    this.#control.phase(phase)
  }

  progress(): BodyProgress {
    const { remaining, busy } = this.#engine
    const offset = Math.max(0, this.#len - remaining)
    return { offset, len: this.#len, busy, activelySynced: false, charged: this.#limit.charged }
  }

  look(at: number): void {
    if (this.#control.pausing || !this.#copies || this.#spec.sync === 'none') this.#patience.pause()
    else this.#patience.look(at, this.#engine.remaining, this.#limit.speed)
  }

  receipt(): JobReceipt {
    this.#stopwatch.stop()
    const { copied, zeroed, skipped } = this.#engine.counters
    return { copied, zeroed, skipped, flush: this.#flush.outcome, durations: this.#stopwatch.durations() }
  }

  setSpeed(bytesPerSecond: number): void {
    this.#limit.set(bytesPerSecond)
    this.#control.wake()
  }

  setShare(bytesPerSecond: number): void {
    this.#limit.setShare(bytesPerSecond)
    this.#control.wake()
  }

  async finalize(commit: boolean): Promise<void> {
    const { ownsTarget, target } = this.#spec
    await this.#guard.end()
    await giveBack([
      () => (ownsTarget ? this.#graph.remove(target) : undefined),
      () => giveBack(this.#held),
      () => this.#finishBitmap(commit),
    ])
  }

  async #finishBitmap(success: boolean): Promise<void> {
    const { bitmap } = this.#spec
    if (bitmap === undefined || this.#use === undefined) return
    // What is still to do was not copied.
    const known = !success && bitmap.mode === 'always' && (await this.#flush.isDurable())
    this.#use.finish(bitmap.mode, success, known ? this.#bitmap : undefined)
  }

  /** A target above the source itself is read by others, and what lies below it is written. */
  #targetPermissions(): Permissions {
    const share: readonly Permission[] = this.#graph.isBelow(this.#source, this.#target)
      ? SHARED
      : ['consistent read', 'write unchanged']
    return { use: ['write'], share }
  }

  async #claim(node: BlockNode, permissions: Permissions): Promise<void> {
    const claim: Claim = await this.#graph.claim(BACKUP_USER, node, permissions)
    this.#held.push(() => claim.release())
  }
}
