// SPDX-License-Identifier: Apache-2.0
// Resize: gives a node that nobody else uses another size, as a job, because to reserve or write what is new may take long.
// Used for `x-resize`. When it fails or is cancelled the node is as long as before, unless writing or flushing the new size
// was what failed.

import type { JobReceipt } from '../../common/job-messages.js'
import { Cancelled, CommandError } from '../../errors.js'
import type { Claim } from '../block/claims.js'
import type { Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { Preallocate } from '../block/preallocate.js'
import type { Buffers } from '../copy/buffers.js'
import { takeSlot } from '../copy/pace.js'
import type { ResizeSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Stopwatch } from './stopwatch.js'

/** Nobody else may change the node meanwhile. */
const RESIZING: Permissions = { use: ['write', 'resize'], share: ['consistent read', 'write unchanged'] }
/** Work between two looks whether messages came, milliseconds. */
const TURN_MS = 10

export class ResizeJob implements JobBody {
  readonly #spec: ResizeSpec
  readonly #graph: Graph
  readonly #node: BlockNode
  readonly #buffers: Buffers
  readonly #control: JobControl
  readonly #stopwatch = new Stopwatch()
  #claim: Claim | undefined
  /** Bytes. */
  #total = 1
  #begun = 0
  #turn = 0
  #flush: JobReceipt['flush'] = 'not-reached'
  #applied = false

  constructor(spec: ResizeSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#node = graph.node(spec.node)
    this.#buffers = buffers
    this.#control = control
  }

  async prepare(): Promise<void> {
    if (this.#node.driver.resize === undefined)
      throw new CommandError('Image format driver does not support resize')
    this.#claim = await this.#graph.claim('block job: x-resize', this.#node, RESIZING)
  }

  async run(): Promise<void> {
    const { size, preallocation } = this.#spec
    this.#control.phase('bulk')
    this.#stopwatch.enter('bulk')
    try {
      if (preallocation === 'off') await this.#node.resize(size)
      else await this.#grow(preallocation)
      this.#applied = true
      this.#control.phase('flush')
      this.#stopwatch.enter('flush')
      this.#flush = 'failed'
      await this.#node.flush()
      this.#flush = this.#node.options.noFlush ? 'disabled' : 'ok'
    } finally {
      this.#stopwatch.stop()
    }
  }

  async #grow(mode: Preallocate['mode']): Promise<void> {
    const { size } = this.#spec
    const before = this.#node.size()
    if (size <= before) throw new CommandError('Preallocation can only be used for growing images')
    this.#total = size - before
    const slot = await takeSlot(this.#buffers, this.#control, () => this.#checkpoint())
    try {
      this.#buffers.bytes(slot).fill(0)
      const zeroes = { slot, offset: 0, length: this.#buffers.slotSize }
      const step = (bytes: number) => this.#step(bytes)
      await this.#node.resize(size, { preallocate: { mode, zeroes, step } })
    } finally {
      this.#buffers.give(slot)
    }
  }

  async #checkpoint(): Promise<void> {
    if (this.#control.pausing) await this.#control.pausePoint()
    if (this.#control.signal.aborted) throw new Cancelled()
  }

  async #step(bytes: number): Promise<void> {
    if (performance.now() - this.#turn > TURN_MS) {
      await new Promise((resolve) => setImmediate(resolve))
      this.#turn = performance.now()
    }
    await this.#checkpoint()
    this.#begun += bytes
  }

  get applied(): boolean {
    return this.#applied
  }

  receipt(): JobReceipt {
    const durations = this.#stopwatch.durations()
    return { copied: 0, zeroed: 0, skipped: 0, flush: this.#flush, durations }
  }

  progress(): BodyProgress {
    const flushed = this.#flush === 'ok' || this.#flush === 'disabled'
    const done = flushed ? this.#total : Math.min(this.#begun, this.#total)
    return { offset: done, len: this.#total, busy: !this.#applied, activelySynced: false }
  }

  async finalize(): Promise<void> {
    await this.#claim?.release()
  }
}
