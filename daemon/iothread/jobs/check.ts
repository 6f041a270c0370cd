// SPDX-License-Identifier: Apache-2.0
// Check: looks for errors in the qcow2 image whose bytes a node holds, as a job, so that a slow disk holds up nobody.
// Used for `x-check`. Other programs may read the image meanwhile; none may write it.

import type { IoEngine } from '../../../native/types.js'
import type { JobReceipt, JobResult } from '../../common/job-messages.js'
import type { Claim } from '../block/claims.js'
import type { Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { Buffers } from '../copy/buffers.js'
import type { CheckResult, CheckSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { Stopwatch } from './stopwatch.js'

const LOOKING: Permissions = { use: ['consistent read'], share: ['consistent read', 'write unchanged'] }
const REPAIRING: Permissions = { use: ['consistent read', 'write', 'resize'], share: ['consistent read'] }

export class CheckJob implements JobBody {
  readonly #spec: CheckSpec
  readonly #graph: Graph
  readonly #buffers: Buffers
  readonly #engine: IoEngine
  readonly #control: JobControl
  readonly #stopwatch = new Stopwatch()
  readonly #progress = { done: 0, total: 1 }
  #claim: Claim | undefined
  #result: CheckResult | undefined

  constructor(spec: CheckSpec, graph: Graph, buffers: Buffers, engine: IoEngine, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#buffers = buffers
    this.#engine = engine
    this.#control = control
  }

  async prepare(): Promise<void> {
    const node = this.#graph.node(this.#spec.node)
    const permissions = this.#spec.repair === 'none' ? LOOKING : REPAIRING
    this.#claim = await this.#graph.claim('block job: x-check', node, permissions)
  }

  async run(): Promise<void> {
    this.#stopwatch.enter('bulk')
    this.#control.phase('bulk')
    const { node, repair } = this.#spec
    const io = {
      node: this.#graph.node(node),
      engine: this.#engine,
      slots: this.#buffers,
      pausePoint: () => this.#control.pausePoint(),
    }
    try {
      const { checkQcow2 } = await import('../block/drivers/qcow2/check/check.js')
      this.#result = await checkQcow2(io, repair, this.#progress)
    } finally {
      this.#stopwatch.stop()
    }
  }

  receipt(): JobReceipt {
    const flush =
      this.#spec.repair === 'none' ? 'disabled' : this.#result === undefined ? 'not-reached' : 'ok'
    const durations = this.#stopwatch.durations()
    return { copied: 0, zeroed: 0, skipped: 0, flush, durations }
  }

  result(): JobResult | undefined {
    return this.#result === undefined ? undefined : checkInfo(this.#result)
  }

  progress(): BodyProgress {
    const { done, total } = this.#progress
    return {
      offset: Math.min(done, total),
      len: total,
      busy: this.#result === undefined,
      activelySynced: false,
    }
  }

  async finalize(): Promise<void> {
    await this.#claim?.release()
  }
}

/** Members as `qemu-img check --output=json` names them. */
function checkInfo(result: CheckResult): JobResult {
  return {
    'check-errors': result.checkErrors,
    corruptions: result.corruptions,
    leaks: result.leaks,
    'corruptions-fixed': result.corruptionsFixed,
    'leaks-fixed': result.leaksFixed,
    'total-clusters': result.totalClusters,
    'allocated-clusters': result.allocatedClusters,
    'fragmented-clusters': result.fragmentedClusters,
    'compressed-clusters': result.compressedClusters,
    'image-end-offset': result.imageEndOffset,
    lines: [...result.lines],
    'lines-left-out': result.linesLeftOut,
  }
}
