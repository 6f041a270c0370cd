// SPDX-License-Identifier: Apache-2.0
// How far a transfer is, in the words of query-migrate: gathered from whoever reads, and from the clock.

import type { PageCounts, Tally } from './context.js'
import type { ImageHead } from './image.js'
import type { StreamAddress, TransferPhase, TransferStats } from './messages.js'
import { TimeClasses } from './time-classes.js'
import type { WaitMeter } from './wait-meter.js'

export class Stats implements Tally {
  readonly #meter: WaitMeter
  readonly #now: () => number
  readonly #counts: (() => PageCounts)[] = []
  readonly #received: (() => number)[] = []
  readonly #spent: Record<TransferPhase, number> = { setup: 0, pages: 0, tail: 0, flush: 0 }
  readonly #iterations = new TimeClasses()
  #iterationSince: number | undefined
  #head: TransferStats['head']
  #listening: StreamAddress | undefined
  #shared = { normal: 0, zero: 0 }
  #phase: TransferPhase = 'setup'
  #since: number
  #over = false

  constructor(meter: WaitMeter, now = () => performance.now()) {
    this.#meter = meter
    this.#now = now
    this.#since = now()
  }

  get phase(): TransferPhase {
    return this.#phase
  }

  enter(phase: TransferPhase): void {
    this.#settle()
    this.#phase = phase
  }

  stop(): void {
    this.#settle()
    this.#over = true
  }

  pagesDone(): void {
    this.enter('tail')
  }

  begun({ configuration, pageSize, blocks }: ImageHead): void {
    const total = blocks.reduce((sum, { length }) => sum + length, 0)
    this.#head = { machine: configuration.machine, total, pageSize, blocks: blocks.length }
    this.enter('pages')
  }

  iteration(): void {
    const now = this.#now()
    if (this.#iterationSince !== undefined) this.#iterations.add(now - this.#iterationSince)
    this.#iterationSince = now
  }

  count(counts: () => PageCounts): void {
    this.#counts.push(counts)
  }

  bytes(received: () => number): void {
    this.#received.push(received)
  }

  shared(pages: number, normal: number): void {
    this.#shared = { normal: this.#shared.normal + normal, zero: this.#shared.zero + pages - normal }
  }

  /** Bytes of memory that passed, those sent again included; and how many it will be at least. */
  progress(): { readonly offset: number; readonly len: number } {
    const { pageSize = 0, total = 0 } = this.#head ?? {}
    const { normal, zero } = this.#pages()
    const offset = (normal + zero) * pageSize
    return { offset, len: Math.max(offset, total) }
  }

  listening(address: StreamAddress): void {
    this.#listening = address
  }

  report(): TransferStats {
    const head = this.#head
    const { normal, zero, walks } = this.#pages()
    const seen = (normal + zero) * (head?.pageSize ?? 0)
    const running = this.#over ? 0 : this.#now() - this.#since
    return {
      listening: this.#listening,
      head,
      transferred: this.#received.reduce((sum, received) => sum + received(), 0),
      normal,
      duplicate: zero,
      remaining: head === undefined ? 0 : Math.max(0, head.total - seen),
      passes: walks,
      phases: { ...this.#spent, [this.#phase]: this.#spent[this.#phase] + running },
      flushing: this.#phase === 'flush' && !this.#over ? running : undefined,
      waits: this.#meter.times.list(),
      longestWait: this.#meter.times.longest,
      iterations: this.#iterations.list(),
      longestIteration: this.#iterations.longest,
    }
  }

  #pages(): PageCounts {
    let { normal, zero } = this.#shared
    let walks = 0
    for (const counts of this.#counts) {
      const one = counts()
      normal += one.normal
      zero += one.zero
      walks = Math.max(walks, one.walks)
    }
    return { normal, zero, walks }
  }

  #settle(): void {
    const now = this.#now()
    if (!this.#over) this.#spent[this.#phase] += now - this.#since
    this.#since = now
  }
}
