// SPDX-License-Identifier: Apache-2.0
// What the parts of one transfer share. Made by the job.

import type { ImageHead } from './image.js'
import type { StreamAddress } from './messages.js'
import type { Pace } from './pace.js'
import type { Slots } from './slots.js'
import type { WaitMeter } from './wait-meter.js'

/** Counts of one reader of pages; asked for whenever somebody wants to know. */
export interface PageCounts {
  readonly normal: number
  readonly zero: number
  readonly walks: number
}

export interface Tally {
  /** Connections are waited for there. */
  listening(address: StreamAddress): void
  /** The head was read. */
  begun(head: ImageHead): void
  /** A part of the memory begins, as the source divides it. */
  iteration(): void
  pagesDone(): void
  /** From now on these are counted too. */
  count(counts: () => PageCounts): void
  bytes(received: () => number): void
  /** Pages read from files of shared memory, and those of them with data. */
  shared(pages: number, normal: number): void
}

export interface TransferContext {
  readonly slots: Slots
  readonly pace: Pace
  readonly meter: WaitMeter
  readonly tally: Tally
  /** Names of blocks whose memory lies in files. */
  readonly inFiles: ReadonlySet<string>
  readonly signal: AbortSignal
  /** Answers at once unless the job is paused. @throws Cancelled */
  readonly pausePoint: () => Promise<void>
  readonly fdTaken: (fd: number) => void
  readonly warn: (text: string) => void
}
