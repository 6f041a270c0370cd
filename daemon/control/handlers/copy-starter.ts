// SPDX-License-Identifier: Apache-2.0
// What the starts of mirrors and backups have in common: claims source, target and names, brings the nodes into one worker,
// makes the target where it is a file, starts the job. Whatever fails, the earlier steps are undone. Names, job id and nodes are
// claimed before the first wait, so two commands cannot start on the same things. Used by mirror.ts and backup.ts.

import type { Logger } from 'pino'
import { CommandError } from '../../errors.js'
import type { JobSpec } from '../../iothread/messages.js'
import type { Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Jobs, Reservation } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import type { DiskWorker } from '../workers.js'
import { checkApart, checkSpeed } from './mirror-checks.js'
import { type TargetArguments, TargetFile, type TargetJob } from './target-file.js'

/** What a start took before it waited for anything. */
export interface CopyClaim {
  readonly id: string
  readonly reservation: Reservation
  readonly source: Node
  readonly filter: Node
  readonly type: 'mirror' | 'backup'
}

/** A job that is to be claimed for. */
export interface CopyJob {
  readonly id: string
  readonly source: Node
  readonly filter: { readonly driver: 'mirror_top' | 'copy-before-write'; readonly name: string | undefined }
  /** Bytes per second. */
  readonly speed: number | undefined
  /** Name of the budget that it shares. */
  readonly budget: string | undefined
}

/** How the job is started when its target is open. */
export interface CopyStart {
  readonly plan: Omit<JobPlan, 'id'>
  readonly spec: (target: Node, ownsTarget: boolean) => JobSpec
}

/** A job that only has to be started. */
export interface PreparedCopy {
  readonly reservation: Reservation
  readonly plan: Omit<JobPlan, 'id'>
  readonly spec: JobSpec
  readonly worker: DiskWorker
  /** To be called when the job is over. */
  readonly concluded: () => void
  /** There never was a job. */
  readonly undo: () => Promise<void>
}

export class CopyStarter {
  readonly graphs: Graphs
  readonly #jobs: Jobs
  readonly #log: Logger

  constructor(graphs: Graphs, jobs: Jobs, log: Logger) {
    this.graphs = graphs
    this.#jobs = jobs
    this.#log = log
  }

  /** Takes job id, filter name and source, after the last checks. */
  claim(
    { id, source, filter: { driver, name }, speed, budget }: CopyJob,
    check: () => void = () => {},
  ): CopyClaim {
    const { directory } = this.graphs
    const reservation = this.#jobs.reserve(id, budget)
    try {
      checkSpeed(speed)
      this.graphs.checkUnchanging(source)
      check()
      const filter = directory.enter(
        { driver, 'node-name': name, file: source.name },
        { kind: 'job', name: id },
      )
      const type = driver === 'mirror_top' ? 'mirror' : 'backup'
      filter.use = { job: id, type, role: 'filter' }
      source.use = { job: id, type, role: 'source' }
      return { id, reservation, source, filter, type }
    } catch (error) {
      this.#jobs.giveBack(reservation)
      throw error
    }
  }

  /** The checks of a target node that come last. */
  checkTarget(source: Node, target: Node): void {
    const { directory } = this.graphs
    if (directory.report(target)?.readOnly === true) throw new CommandError('Block node is read-only')
    checkApart(this.graphs, source, target)
    this.graphs.checkUnchanging(target)
  }

  /** Starts a job. */
  async run(prepared: PreparedCopy): Promise<void> {
    const { reservation, plan, spec, worker, concluded } = prepared
    try {
      await this.#jobs.start(reservation, plan, spec, worker.handle, concluded)
    } catch (error) {
      await prepared.undo()
      throw error
    }
  }

  /** Everything but the start. On failure nothing is claimed any more. */
  async prepareNode(claim: CopyClaim, target: Node, start: CopyStart): Promise<PreparedCopy> {
    target.use = { job: claim.id, type: claim.type, role: 'target' }
    try {
      const worker = await this.#join([claim.source, target], claim)
      return this.#prepared(claim, target, worker, start, false)
    } catch (error) {
      target.use = undefined
      this.release(claim)
      throw error
    }
  }

  /** The same for a target that is a file. */
  async prepareFile(
    claim: CopyClaim,
    args: TargetArguments,
    job: TargetJob,
    start: CopyStart,
  ): Promise<PreparedCopy> {
    try {
      using made = new TargetFile(this.graphs, args, claim.source, job)
      const worker = await this.#join([claim.source], claim)
      try {
        const target = await this.#makeTarget(made, args, claim, worker)
        return this.#prepared(claim, target, worker, start, true)
      } catch (error) {
        worker.release()
        throw error
      }
    } catch (error) {
      this.release(claim)
      throw error
    }
  }

  async #makeTarget(
    made: TargetFile,
    args: TargetArguments,
    claim: CopyClaim,
    worker: DiskWorker,
  ): Promise<Node> {
    const format = await made.format(worker)
    if (args.mode !== 'existing') await made.make(format, worker)
    const target = await made.open(format, claim.id, worker)
    target.use = { job: claim.id, type: claim.type, role: 'target' }
    try {
      checkApart(this.graphs, claim.source, target)
      return target
    } catch (error) {
      target.use = undefined
      await this.#discard(target)
      throw error
    }
  }

  /** Gives back what was claimed for a job that is not prepared. */
  release(claim: CopyClaim): void {
    this.#unclaim(claim)
    this.#jobs.giveBack(claim.reservation)
    void this.graphs.closeUnused()
  }

  #unclaim({ source, filter }: CopyClaim): void {
    source.use = undefined
    this.graphs.directory.remove(filter)
  }

  async #join(nodes: readonly Node[], { id, filter }: CopyClaim): Promise<DiskWorker> {
    return await this.graphs.join(nodes, id, new Set([filter]))
  }

  /** @param worker  held for the job */
  #prepared(
    claim: CopyClaim,
    target: Node,
    worker: DiskWorker,
    start: CopyStart,
    ownsTarget: boolean,
  ): PreparedCopy {
    const { reservation, filter } = claim
    this.graphs.directory.renew(filter)
    this.graphs.directory.place([filter], worker)
    filter.state = 'open'
    const concluded = () => {
      target.use = undefined
      // Users of the source may have it now.
      if (ownsTarget) target.owner = { kind: 'nobody' }
      this.#unclaim(claim)
      worker.release()
      void this.graphs.closeUnused()
    }
    const undo = async () => {
      target.use = undefined
      if (ownsTarget) await this.#discard(target)
      concluded()
      this.#jobs.giveBack(reservation)
    }
    return { reservation, plan: start.plan, spec: start.spec(target, ownsTarget), worker, concluded, undo }
  }

  /** Closes a target that no job got. */
  async #discard(target: Node): Promise<void> {
    try {
      await this.graphs.close(target)
    } catch (error) {
      this.#log.debug({ node: target.name, err: error }, 'target of a refused job not closed')
    }
  }
}
