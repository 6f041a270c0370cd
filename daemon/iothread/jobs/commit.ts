// SPDX-License-Identifier: Apache-2.0
// Commit of an image that another one lies above: what it and those below it hold is copied into the base, and the overlay
// lies above the base then. (The commit of an active image is a mirror: mirror.ts.)
//
// The overlay sees the same all the time: what is changed in the base is hidden by the images it is copied from, until
// the overlay names the base; then it is there.

import type { Failure } from '../../common/give-back.js'
import type { JobReceipt } from '../../common/job-messages.js'
import type { Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { TopFilter } from '../block/top-filters.js'
import type { Buffers } from '../copy/buffers.js'
import type { CommitSpec } from '../messages-chain.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Holdings, layersTo } from './holdings.js'
import { OnePass } from './one-pass.js'

export const COMMIT_USER = 'block job: commit'

/** Nobody writes it, and who reads it must be above it in the chain. */
const TOP: Permissions = { use: ['consistent read'], share: ['write unchanged'] }

export class CommitJob implements JobBody {
  readonly #spec: CommitSpec
  readonly #graph: Graph
  readonly #overlay: BlockNode
  readonly #top: BlockNode
  readonly #base: BlockNode
  readonly #pass: OnePass
  readonly #holdings: Holdings
  readonly #signal: AbortSignal
  #filter: TopFilter | undefined
  /** What the commit is of, and not the overlay's. */
  #chainClaims = 0

  constructor(spec: CommitSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#signal = control.signal
    this.#graph = graph
    this.#overlay = graph.node(spec.overlay)
    this.#top = graph.node(spec.top)
    this.#base = graph.node(spec.base)
    const { speed, yielding } = spec
    const pass = { source: this.#top, target: this.#base, guests: graph.guests, speed, yielding }
    this.#pass = new OnePass(pass, buffers, control)
    this.#holdings = new Holdings(graph, COMMIT_USER)
  }

  async prepare(): Promise<void> {
    const holdings = this.#holdings
    const { way } = layersTo(this.#graph, this.#top, this.#base)
    const fromOverlay = layersTo(this.#graph, this.#overlay, this.#top).way
    try {
      await holdings.makeWritable(this.#base, this.#signal)
      await holdings.makeWritable(this.#overlay, this.#signal)
      await holdings.claimChain(way, TOP, fromOverlay.at(-2))
      this.#chainClaims = holdings.claims.length
      await holdings.claimUnchanged(this.#overlay)
      this.#pass.checkLength()
      this.#filter = holdings.insertFilter(this.#spec.filter, 'commit_top')
    } catch (error) {
      await holdings.letGo({ error })
    }
  }

  async run(): Promise<void> {
    const { layers } = layersTo(this.#graph, this.#top, this.#base)
    if (this.#base.length() < this.#top.length()) await this.#base.resize(this.#top.length())
    await this.#pass.run({ above: layers }, () => this.#hideTail())
  }

  /** A base that is longer than the top would show there what nobody saw before. */
  async #hideTail(): Promise<void> {
    const from = this.#top.length()
    const end = Math.min(this.#base.length(), this.#overlay.length())
    if (end > from) await this.#base.zero(from, end - from, { unmap: true, fast: false })
  }

  progress(): BodyProgress {
    return this.#pass.progress()
  }

  look(at: number): void {
    this.#pass.look(at)
  }

  receipt(): JobReceipt {
    return this.#pass.receipt()
  }

  setSpeed(bytesPerSecond: number): void {
    this.#pass.setSpeed(bytesPerSecond)
  }

  setShare(bytesPerSecond: number): void {
    this.#pass.setShare(bytesPerSecond)
  }

  async finalize(commit: boolean): Promise<void> {
    const { claims } = this.#holdings
    let failure: Failure | undefined
    // What lies between is closed where nobody has it any more.
    this.#filter?.remove()
    try {
      if (commit) {
        const ending = claims.slice(0, this.#chainClaims)
        await this.#graph.surgery.rebase(this.#overlay, this.#base, this.#spec.backing, ending)
      }
    } catch (error) {
      failure = { error }
    }
    await this.#holdings.letGo(failure)
  }
}
