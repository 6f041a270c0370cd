// SPDX-License-Identifier: Apache-2.0
// Loans: somebody outside reads and writes the file under a node himself, because going through nodes takes longer than a request
// of his. Used by BlockNode, drivers of plain storage, and exports.
//
//     borrower ── reads, writes ──▶ file          node (its part in it: statistics, a request in flight)
//         ◀────────── callBack ──────────────────────┘ when somebody drains, listens, hooks in, or asks for extents
//
// Rule: as long as a node is lent there is nothing that would have to be done for each request: no listener, no hook, no
// drained section, no detection of zeroes. Whoever brings such a thing calls back first; then no new request is begun by the borrower,
// and one that is under way ends as one that came through the node, or is brought to the node. A write that is not brought there
// either, because nobody wants its answer any more, may be in the file all the same: the borrower says where when he gives back.

import type { FileId, Range } from '../../../native/types.js'

/** What was done with what was lent. */
export interface LoanCounts {
  readonly reads: number
  readonly readBytes: number
  readonly writes: number
  readonly writeBytes: number
  /** Everything written lies in [from, to) of the file. */
  readonly from: number
  readonly to: number
}

export interface Borrower {
  /** Give back soon; nothing is to be begun any more. Many calls are one. */
  callBack(): void
  /** So far. */
  counts(): LoanCounts
}

/** A file whose bytes are the node's, each in its place. */
export interface LentFile {
  readonly file: FileId
  /** Bytes; no request may reach beyond. */
  readonly length: number
}

export interface Loan {
  readonly lent: LentFile
  /**
   * Once: nothing of the borrower's is under way any more.
   * @param begun  where a write was begun, and perhaps ended, that is not among what was counted
   */
  back(begun: Range | undefined): void
}

/** The counters of a node that loans change. */
export interface LoanCounters {
  reads: number
  readBytes: number
  writes: number
  writeBytes: number
  writeHighest: number
}

const NONE: LoanCounts = { reads: 0, readBytes: 0, writes: 0, writeBytes: 0, from: 0, to: 0 }

/** Those of one node. */
export class Loans {
  readonly #counters: LoanCounters
  /** What was counted of each. */
  readonly #open = new Map<Borrower, LoanCounts>()
  /** Called when the last is back. */
  #returned: (() => void)[] = []

  constructor(counters: LoanCounters) {
    this.#counters = counters
  }

  get none(): boolean {
    return this.#open.size === 0
  }

  begin(borrower: Borrower): void {
    this.#open.set(borrower, NONE)
  }

  end(borrower: Borrower): void {
    this.#count(borrower)
    this.#open.delete(borrower)
    if (this.#open.size > 0) return
    const waiting = this.#returned
    this.#returned = []
    for (const resolve of waiting) resolve()
  }

  callBack(): void {
    for (const borrower of [...this.#open.keys()]) borrower.callBack()
  }

  /** Calls back; resolves when nothing is lent. */
  returned(): Promise<void> {
    this.callBack()
    if (this.none) return Promise.resolve()
    return new Promise((resolve) => this.#returned.push(resolve))
  }

  /** Brings the counters up to date. */
  count(): void {
    for (const borrower of this.#open.keys()) this.#count(borrower)
  }

  #count(borrower: Borrower): void {
    const before = this.#open.get(borrower) ?? NONE
    const now = borrower.counts()
    const counters = this.#counters
    counters.reads += now.reads - before.reads
    counters.readBytes += now.readBytes - before.readBytes
    counters.writes += now.writes - before.writes
    counters.writeBytes += now.writeBytes - before.writeBytes
    counters.writeHighest = Math.max(counters.writeHighest, now.to)
    this.#open.set(borrower, now)
  }
}
