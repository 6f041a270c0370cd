// SPDX-License-Identifier: Apache-2.0
// Plays a recording event by event and can cut the power after each: what a device holds then is all that a completed
// flush covered, and any part, by sectors, of what came after it.

import { type Change, type DiskBytes, sectorsOf } from './disk-bytes.js'
import { type DiskEvent, type Flush, someSectors } from './recorded-disk.js'
import { isKept, type Reordering, reorderings } from './reorderings.js'

type Below = (below: number) => number

/** One way in which the power may be cut. */
export interface Cut {
  /** The same for two that leave the same. */
  readonly name: string
  /** What is left; another copy each time. */
  disks(): DiskBytes[]
}

export class Replay {
  /** What flushes have made safe, by device. */
  readonly #safe: readonly DiskBytes[]
  readonly #below: Below
  /** Begun and not safe, in the order in which they began. */
  #pending: { readonly change: Change; readonly number: number; done: boolean }[] = []
  /** Changes so far, and flushes that made some of them safe. */
  #started = 0
  #flushed = 0
  /** What each flush under way will make safe. */
  readonly #flushes = new Map<Flush, ReadonlySet<Change>>()

  /** @param disks  as before the recording; they are changed */
  constructor(disks: readonly DiskBytes[], below: Below) {
    this.#safe = disks
    this.#below = below
  }

  step(event: DiskEvent): void {
    switch (event.kind) {
      case 'started':
        this.#pending.push({ change: event.change, number: this.#started++, done: false })
        return
      case 'done':
        for (const pending of this.#pending) if (pending.change === event.change) pending.done = true
        return
      case 'flushing': {
        const covered = this.#pending.filter(({ change, done }) => done && change.disk === event.flush.disk)
        this.#flushes.set(event.flush, new Set(covered.map(({ change }) => change)))
        return
      }
      case 'flushed':
      case 'flush failed':
        this.#makeSafe(event.flush, event.kind === 'flushed')
        return
      default:
        event satisfies never
    }
  }

  /** @returns what the devices hold after a power cut now; theirs is another each time */
  cut(): DiskBytes[] {
    const disks = this.#safe.map((disk) => disk.copy())
    const how = this.#below(8)
    const only = this.#below(Math.max(1, this.#pending.length))
    for (const [index, { change }] of this.#pending.entries()) {
      if (how === 0 || (how === 1 && index !== only) || (how === 2 && index === only)) continue
      if (how <= 3) disks[change.disk]?.apply(change)
      else if (how <= 5) {
        if (this.#below(2) === 0) disks[change.disk]?.apply(change)
      } else {
        const chosen = someSectors(change, this.#below)
        disks[change.disk]?.apply(change, (sector) => chosen.has(sector))
      }
    }
    return disks
  }

  /** What the devices may hold after a power cut now, in each of the ways that can be told apart. */
  *everyCut(): Generator<Cut> {
    const sectors = this.#pending.map(({ change }) => sectorsOf(change))
    for (const how of reorderings(sectors)) {
      const kept = this.#pending.filter((_, index) => index !== how.torn?.change && how.whole(index))
      const torn = how.torn && `${this.#pending[how.torn.change]?.number}/${how.torn.part}`
      yield {
        name: `${this.#flushed} ${kept.map(({ number }) => number)} ${torn ?? ''}`,
        disks: () => this.#left(how, sectors),
      }
    }
  }

  #left(how: Reordering, sectors: readonly number[]): DiskBytes[] {
    const disks = this.#safe.map((disk) => disk.copy())
    for (const [index, { change }] of this.#pending.entries()) {
      const of = sectors[index] ?? 0
      disks[change.disk]?.apply(change, (sector) => isKept(how, index, sector, of))
    }
    return disks
  }

  /** After a failure nobody knows: a part is lost for good, the rest may still come. */
  #makeSafe(flush: Flush, well: boolean): void {
    this.#flushed += 1
    const covered = this.#flushes.get(flush) ?? new Set()
    this.#flushes.delete(flush)
    this.#pending = this.#pending.filter(({ change }) => {
      if (!covered.has(change)) return true
      if (!well) return this.#below(2) === 0
      this.#safe[change.disk]?.apply(change)
      return false
    })
  }
}
