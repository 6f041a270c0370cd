// SPDX-License-Identifier: Apache-2.0
// Jobs and guests on a graph of this process: jobs as a worker runs them, guests as an export serves them.
// Used by tests of what jobs do below a guest.

import type { Claim } from '../../daemon/iothread/block/claims.js'
import { Buffers } from '../../daemon/iothread/copy/buffers.js'
import { BackupJob } from '../../daemon/iothread/jobs/backup.js'
import type { JobBody, JobControl } from '../../daemon/iothread/jobs/body.js'
import { CommitJob } from '../../daemon/iothread/jobs/commit.js'
import { JobTable } from '../../daemon/iothread/jobs/job-table.js'
import { MirrorJob } from '../../daemon/iothread/jobs/mirror.js'
import { StreamJob } from '../../daemon/iothread/jobs/stream.js'
import type { MirrorSpec, Report } from '../../daemon/iothread/messages.js'
import type { BackupSpec } from '../../daemon/iothread/messages-backup.js'
import type { ChainSpec } from '../../daemon/iothread/messages-chain.js'
import type { TestGraph } from './graph.js'
import type { GuestDisk } from './stamped-disk.js'

type CopySpec = MirrorSpec | BackupSpec | ChainSpec

/** Lets everything run that can. */
export const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** Jobs on a graph, as a worker runs them. */
export class GraphJobs {
  readonly reports: Report[] = []
  /** Somebody waits until source and target are equal: a guest that writes faster than is copied is to slow down. */
  converging = false
  readonly #graph: TestGraph
  readonly #buffers: Buffers
  readonly #table: JobTable

  constructor(graph: TestGraph) {
    this.#graph = graph
    this.#buffers = new Buffers(graph.engine)
    this.#table = new JobTable(
      (report) => this.reports.push(report),
      () => undefined,
    )
  }

  async start(id: string, spec: CopySpec): Promise<void> {
    const policy =
      spec.kind === 'mirror' || spec.kind === 'backup'
        ? { read: spec.onSourceError, write: spec.onTargetError }
        : { read: spec.onError, write: spec.onError }
    await this.#table.start(id, (control) => this.#body(spec, control), policy)
  }

  #body(spec: CopySpec, control: JobControl): JobBody {
    const { graph } = this.#graph
    if (spec.kind === 'mirror') return new MirrorJob(spec, graph, this.#buffers, control)
    if (spec.kind === 'backup') return new BackupJob(spec, graph, this.#buffers, control)
    if (spec.kind === 'commit') return new CommitJob(spec, graph, this.#buffers, control)
    return new StreamJob(spec, graph, this.#buffers, control)
  }

  get verbs() {
    return this.#table.handlers
  }

  async report<K extends Report['kind']>(kind: K, id: string): Promise<Extract<Report, { kind: K }>> {
    for (;;) {
      const found = this.find(kind, id)
      if (found !== undefined) return found
      await turn()
    }
  }

  find<K extends Report['kind']>(kind: K, id: string): Extract<Report, { kind: K }> | undefined {
    const found = this.reports.find((each) => each.kind === kind && 'id' in each && each.id === id)
    return found as Extract<Report, { kind: K }> | undefined
  }
}

/** What an export does: each request uses the node that its claim is on then. */
export function guestOf(g: TestGraph, claim: Pick<Claim, 'node'>): GuestDisk {
  const withSlot = async <T>(work: (slot: number) => Promise<T>): Promise<T> => {
    let slot = g.engine.takeSlots(1)[0]
    for (; slot === undefined; slot = g.engine.takeSlots(1)[0]) await turn()
    try {
      return await work(slot)
    } finally {
      g.engine.giveSlots([slot])
    }
  }
  const guest = g.graph.guests.join()
  return {
    read: (offset, length) =>
      withSlot(async (slot) => {
        await guest.during('read', length, () => claim.node.read(offset, { slot, offset: 0, length }))
        return g.engine.slotBytes(slot).slice(0, length)
      }),
    write: (offset, bytes) =>
      withSlot(async (slot) => {
        g.engine.slotBytes(slot).set(bytes)
        const { length } = bytes
        await guest.during('write', length, () => claim.node.write(offset, { slot, offset: 0, length }))
      }),
    zero: (offset, length) => claim.node.zero(offset, length, { unmap: true, fast: false }),
    flush: () => guest.during('flush', 0, () => claim.node.flush()),
  }
}
