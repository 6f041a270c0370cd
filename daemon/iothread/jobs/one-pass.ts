// SPDX-License-Identifier: Apache-2.0
// One pass: copies what some layers of a backing chain hold to another place of it, and flushes. What commit and stream
// jobs have in common. What is copied does not change while it is copied.

import type { JobReceipt } from '../../common/job-messages.js'
import { DirtyBitmap } from '../block/dirty-bitmap.js'
import type { Guests } from '../block/guests.js'
import type { BlockNode } from '../block/node.js'
import type { Layers } from '../copy/allocated.js'
import type { Buffers } from '../copy/buffers.js'
import { Courtesy } from '../copy/courtesy.js'
import { CopyEngine } from '../copy/engine.js'
import { Patience } from '../copy/patience.js'
import { RateLimit } from '../copy/rate-limit.js'
import type { BodyProgress, JobControl } from './body.js'
import { checkLength } from './same-length.js'
import { Stopwatch } from './stopwatch.js'
import { TargetFlush } from './target-flush.js'

/** Bytes in flight. */
const IN_FLIGHT = 16 * 2 ** 20
/** Bytes per bit, of disks that are not very large: as fine as images are, so that nothing is copied in vain. */
const GRANULARITY = 4096
/** Bits at most: 32 MiB of memory. */
const MAX_CHUNKS = 2 ** 28

export interface Pass {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly guests: Guests
  readonly below?: 'kept' | 'cut'
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
}

export class OnePass {
  readonly #source: BlockNode
  readonly #control: JobControl
  readonly #bitmap: DirtyBitmap
  readonly #engine: CopyEngine
  readonly #flush: TargetFlush
  readonly #limit: RateLimit
  readonly #patience: Patience
  readonly #stopwatch = new Stopwatch()
  /** It is known what is to be copied. */
  #marked = false

  constructor(
    { source, target, guests, below, speed, yielding }: Pass,
    buffers: Buffers,
    control: JobControl,
  ) {
    this.#source = source
    this.#control = control
    this.#bitmap = new DirtyBitmap(source.length(), granularityFor(source.length()))
    this.#limit = new RateLimit(speed)
    const courtesy = new Courtesy(guests, IN_FLIGHT, () => yielding)
    this.#patience = new Patience(courtesy)
    this.#engine = new CopyEngine({
      ...{ source, target, buffers, control, bitmap: this.#bitmap, limit: this.#limit },
      ...{ tasks: Math.max(1, Math.floor(IN_FLIGHT / buffers.slotSize)), piece: buffers.slotSize },
      ...{ courtesy, unmap: true, targetIsZero: false, ...(below !== undefined && { below }) },
    })
    this.#flush = new TargetFlush(target, this.#engine, control)
  }

  /** When the claims are there. @throws CommandError when the size is not what it was */
  checkLength(): void {
    checkLength(this.#source, this.#bitmap.length)
  }

  /** @param last  what else is to be done to the target, before it is flushed */
  async run(layers: Layers, last: () => Promise<void> = async () => {}): Promise<void> {
    this.#phase('probe')
    await this.#engine.dirtyAllocated(layers)
    this.#marked = true
    this.#phase('bulk')
    await this.#engine.copyDirty()
    await last()
    if (this.#control.pausing) await this.#control.pausePoint()
    this.#phase('flush')
    await this.#flush.flush()
  }

  #phase(phase: 'probe' | 'bulk' | 'flush'): void {
    this.#stopwatch.enter(phase)
    this.#control.phase(phase)
  }

  setSpeed(bytesPerSecond: number): void {
    this.#limit.set(bytesPerSecond)
    this.#control.wake()
  }

  setShare(bytesPerSecond: number): void {
    this.#limit.setShare(bytesPerSecond)
    this.#control.wake()
  }

  /** The whole disk counts, as managers know it. */
  progress(): BodyProgress {
    const { length } = this.#bitmap
    const offset = this.#marked ? length - this.#engine.remaining : 0
    const { charged } = this.#limit
    return { offset, len: length, busy: this.#engine.busy, activelySynced: false, charged }
  }

  look(at: number): void {
    if (this.#control.pausing || !this.#marked) this.#patience.pause()
    else this.#patience.look(at, this.#engine.remaining, this.#limit.speed)
  }

  receipt(): JobReceipt {
    this.#stopwatch.stop()
    const { copied, zeroed, skipped } = this.#engine.counters
    return { copied, zeroed, skipped, flush: this.#flush.outcome, durations: this.#stopwatch.durations() }
  }
}

function granularityFor(length: number): number {
  return Math.max(GRANULARITY, 2 ** Math.ceil(Math.log2(Math.max(1, length / MAX_CHUNKS))))
}
