// SPDX-License-Identifier: Apache-2.0
// Stream: copies what shows through an image into it, until it needs the images between it and the base no more, or none
// at all. Whoever writes the image meanwhile is not disturbed: only what it does not store yet is stored.

import type { Failure } from '../../common/give-back.js'
import type { JobReceipt } from '../../common/job-messages.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { TopFilter } from '../block/top-filters.js'
import type { Buffers } from '../copy/buffers.js'
import type { StreamSpec } from '../messages-chain.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Holdings, layersTo } from './holdings.js'
import { OnePass } from './one-pass.js'

export class StreamJob implements JobBody {
  readonly #spec: StreamSpec
  readonly #graph: Graph
  readonly #node: BlockNode
  readonly #base: BlockNode | undefined
  readonly #pass: OnePass
  readonly #holdings: Holdings
  readonly #signal: AbortSignal
  #filter: TopFilter | undefined

  constructor(spec: StreamSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#signal = control.signal
    this.#graph = graph
    this.#node = graph.node(spec.node)
    this.#base = spec.base === undefined ? undefined : graph.node(spec.base)
    const below = this.#base === undefined ? 'cut' : 'kept'
    const { speed, yielding } = spec
    const ends = { source: this.#node, target: this.#node }
    const pass = { ...ends, guests: graph.guests, below, speed, yielding } as const
    this.#pass = new OnePass(pass, buffers, control)
    this.#holdings = new Holdings(graph, 'block job: stream')
  }

  async prepare(): Promise<void> {
    layersTo(this.#graph, this.#node, this.#base)
    try {
      await this.#holdings.makeWritable(this.#node, this.#signal)
      await this.#holdings.claimUnchanged(this.#node)
      this.#pass.checkLength()
      this.#filter = this.#holdings.insertFilter(this.#spec.filter, 'copy-on-read')
    } catch (error) {
      await this.#holdings.letGo({ error })
    }
  }

  async run(): Promise<void> {
    const all = this.#base === undefined
    const below = all ? Number.POSITIVE_INFINITY : layersTo(this.#graph, this.#node, this.#base).layers
    await this.#pass.run({ below })
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
    let failure: Failure | undefined
    // What lies between is closed where nobody has it any more.
    this.#filter?.remove()
    try {
      if (commit && this.#node.driver.backing !== undefined)
        await this.#graph.surgery.rebase(this.#node, this.#base, this.#spec.backing, [])
    } catch (error) {
      failure = { error }
    }
    await this.#holdings.letGo(failure)
  }
}
