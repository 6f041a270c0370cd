// SPDX-License-Identifier: Apache-2.0
// A block driver over bytes in memory that logs when changes and flushes begin and end, so that a power cut can be played
// at any of these points. Requests take a random number of turns of the loop, so they overtake each other as on a disk.
// A fault makes one request fail, having done a part of its work.

import { EIO } from '../../../daemon/common/errno.js'
import { IoError } from '../../../daemon/errors.js'
import type { BlockDriver, Extent, Limits, ReadHow, Slice } from '../../../daemon/iothread/block/driver.js'
import type { IoEngine } from '../../../native/types.js'
import { type Change, type DiskBytes, sectorsOf } from './disk-bytes.js'
import type { GuestEvent } from './guest-model.js'

type Below = (below: number) => number

/** A flush of one device. */
export interface Flush {
  readonly disk: number
}

export type DiskEvent =
  | { readonly kind: 'started' | 'done'; readonly change: Change }
  | { readonly kind: 'flushing' | 'flushed' | 'flush failed'; readonly flush: Flush }

export interface Recording {
  readonly log: (DiskEvent | GuestEvent)[]
  readonly below: Below
  /** Changes and flushes so far, over all devices. */
  requests: number
  /** Which of them fails, counted from 1; 0: none. */
  fault: number
  /** The kind of request that did. */
  failed?: Change['kind'] | 'flush'
}

export class RecordedDisk implements BlockDriver {
  readonly type = 'x-memory'
  readonly limits: Limits
  readonly can = { write: true, resize: true, fastZero: true, unmap: true }
  readonly disk: DiskBytes
  readonly #engine: IoEngine
  readonly #number: number
  readonly #recording: Recording

  constructor(engine: IoEngine, disk: DiskBytes, number: number, recording: Recording) {
    this.#engine = engine
    this.#number = number
    this.#recording = recording
    this.disk = disk
    this.limits = { requestAlign: 1, maxTransfer: engine.slotSize, zeroAlign: 512 }
  }

  length(): number {
    return this.disk.length
  }

  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    await this.#turns()
    const bytes = this.#slot(into)
    bytes.fill(0)
    bytes.set(this.disk.bytes.subarray(offset, offset + into.length))
    return how?.scan === true && bytes.every((byte) => byte === 0)
  }

  write(offset: number, from: Slice): Promise<void> {
    return this.#change({ kind: 'write', offset, length: from.length, bytes: this.#slot(from).slice() })
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#change({ kind: 'zero', offset, length })
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#change({ kind: 'discard', offset, length })
  }

  resize(length: number): Promise<void> {
    return this.#change({ kind: 'resize', offset: 0, length })
  }

  async status(offset: number, length: number): Promise<Extent> {
    return { offset, length, kind: 'data', allocated: true }
  }

  async flush(): Promise<void> {
    const flush = { disk: this.#number }
    const { log } = this.#recording
    const fails = this.#next('flush')
    log.push({ kind: 'flushing', flush })
    await this.#turns()
    log.push({ kind: fails ? 'flush failed' : 'flushed', flush })
    if (fails) throw new IoError(EIO, 'flush', 'recorded')
  }

  async close(): Promise<void> {}

  async #change(what: Omit<Change, 'disk' | 'landed'>): Promise<void> {
    const { log, below } = this.#recording
    const change: Change = { disk: this.#number, ...what }
    const fails = this.#next(change.kind)
    log.push({ kind: 'started', change })
    await this.#turns()
    if (fails) change.landed = someSectors(change, below)
    this.disk.apply(change)
    log.push({ kind: 'done', change })
    if (fails) throw new IoError(EIO, change.kind, 'recorded', change.offset, change.length)
  }

  /** Whether the next request fails. */
  #next(kind: Change['kind'] | 'flush'): boolean {
    const recording = this.#recording
    recording.requests += 1
    if (recording.requests !== recording.fault) return false
    recording.failed = kind
    return true
  }

  async #turns(): Promise<void> {
    for (let left = this.#recording.below(4); left > 0; left--)
      await new Promise((resolve) => setImmediate(resolve))
  }

  #slot(slice: Slice): Uint8Array {
    return this.#engine.slotBytes(slice.slot).subarray(slice.offset, slice.offset + slice.length)
  }
}

/** None, all, or some of the sectors of a change. */
export function someSectors(change: Change, below: Below): Set<number> {
  const share = below(3)
  const chosen = new Set<number>()
  for (let sector = 0; sector < sectorsOf(change); sector++) {
    if (share === 2 || (share === 1 && below(2) === 0)) chosen.add(sector)
  }
  return chosen
}
