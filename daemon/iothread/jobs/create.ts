// SPDX-License-Identifier: Apache-2.0
// Create: makes an image as a job, so that a slow disk holds up nobody. Used for `blockdev-create`.
// Whatever is wrong with what was asked shows in the job, as managers know it. Nodes defined for the job alone are
// opened when it runs and closed when it is over.

import type { JobReceipt } from '../../common/job-messages.js'
import type { Permissions } from '../block/driver.js'
import type { SlotSource } from '../block/drivers/qcow2/create.js'
import type { Graph } from '../block/graph.js'
import { lockRefused } from '../block/image-lock.js'
import type { BlockNode } from '../block/node.js'
import type { CreateSpec, NodeSpec, Qcow2CreateSpec } from '../messages.js'
import type { BodyProgress, JobBody } from './body.js'
import { Stopwatch } from './stopwatch.js'

/** Nobody else may change the nodes meanwhile. */
const CREATING: Permissions = {
  use: ['write', 'resize'],
  share: ['consistent read', 'write unchanged'],
}
const CREATE_USER = 'an unnamed block device'

export class CreateJob implements JobBody {
  readonly #spec: CreateSpec
  readonly #graph: Graph
  readonly #slots: SlotSource
  readonly #signal: AbortSignal
  readonly #stopwatch = new Stopwatch()
  #done = 0
  #flushed = false

  constructor(spec: CreateSpec, graph: Graph, slots: SlotSource, signal: AbortSignal) {
    this.#spec = spec
    this.#graph = graph
    this.#slots = slots
    this.#signal = signal
  }

  async prepare(): Promise<void> {}

  async run(): Promise<void> {
    this.#stopwatch.enter('bulk')
    try {
      if (this.#spec.driver === 'file') await this.#graph.createFile(this.#spec, this.#spec.refuse ?? [])
      else await createImage(this.#graph, this.#spec, this.#slots, this.#signal)
      this.#flushed = true
    } finally {
      this.#done = 1
      this.#stopwatch.stop()
    }
  }

  receipt(): JobReceipt {
    const flush = this.#flushed ? 'ok' : 'not-reached'
    return { copied: 0, zeroed: 0, skipped: 0, flush, durations: this.#stopwatch.durations() }
  }

  /** One step, also when it fails, as managers know it. */
  progress(): BodyProgress {
    return { offset: this.#done, len: 1, busy: this.#done === 0, activelySynced: false }
  }

  async finalize(): Promise<void> {}
}

/**
 * Before a file is emptied for the image.
 * @throws CommandError for options that no image can have
 */
export async function checkImage({ options, dataFile }: Qcow2CreateSpec): Promise<void> {
  const { checkOptions, planLayout } = await import('../block/drivers/qcow2/layout.js')
  checkOptions(options, dataFile !== undefined)
  planLayout(options, dataFile !== undefined)
}

/** Opens what is defined inline, claims both nodes, makes the image, lets go of everything. */
export async function createImage(
  graph: Graph,
  spec: Qcow2CreateSpec,
  slots: SlotSource,
  signal: AbortSignal,
): Promise<void> {
  const { createQcow2 } = await import('../block/drivers/qcow2/create.js')
  const refuse = spec.refuse ?? []
  await withNode(graph, spec.file, refuse, async (file) => {
    const make = (dataFile: BlockNode | undefined) =>
      createQcow2({ file, dataFile, options: spec.options, slots, signal })
    if (spec.dataFile === undefined) await make(undefined)
    else await withNode(graph, spec.dataFile, refuse, make)
  })
}

async function withNode(
  graph: Graph,
  wanted: string | NodeSpec,
  refuse: readonly string[],
  work: (node: BlockNode) => Promise<void>,
): Promise<void> {
  const name = typeof wanted === 'string' ? wanted : wanted['node-name']
  if (typeof wanted !== 'string') await graph.add(wanted)
  try {
    const node = graph.node(name)
    if (typeof wanted !== 'string') checkFree(graph, node, refuse)
    const claim = await graph.claim(CREATE_USER, node, CREATING)
    try {
      await work(node)
    } finally {
      await claim.release()
    }
  } finally {
    if (typeof wanted !== 'string') await graph.remove(name)
  }
}

/** The text for a file in use: whoever reads or writes it does not share resizing. */
function checkFree(graph: Graph, node: BlockNode, refuse: readonly string[]): void {
  const { identity, path } = graph.origin(node)
  if (identity !== undefined && refuse.includes(identity)) throw lockRefused('"resize"', path ?? node.name)
}
