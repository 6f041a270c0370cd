// SPDX-License-Identifier: Apache-2.0
// blockdev-mirror and drive-mirror: checks, claims the nodes, brings them into one worker, starts the job. Whatever
// fails, the earlier steps are undone. Names, job id and nodes are claimed before the first wait, so two commands
// cannot start on the same things.

import type { Logger } from 'pino'
import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { MirrorSpec } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { JobPlan } from '../jobs/job.js'
import type { Jobs, Reservation } from '../jobs/jobs.js'
import type { DiskWorker } from '../workers.js'
import {
  checkApart,
  checkGranularity,
  checkSpeed,
  checkValues,
  findNode,
  findSource,
  type MirrorArguments,
} from './mirror-checks.js'
import { checkFormat, MirrorTarget } from './mirror-target.js'
import { busyText, userAbove } from './nodes.js'

export function mirrorHandlers(graphs: Graphs, jobs: Jobs, log: Logger) {
  const starter = new MirrorStarter(graphs, jobs, log)
  return {
    'blockdev-mirror': (args) => starter.toNode(args),
    'drive-mirror': (args) => starter.toFile(args),
  } satisfies Handlers
}

/** What a start took before it waited for anything. */
interface Claim {
  readonly id: string
  readonly reservation: Reservation
  readonly source: Node
  readonly filter: Node
}

class MirrorStarter {
  readonly #graphs: Graphs
  readonly #jobs: Jobs
  readonly #log: Logger

  constructor(graphs: Graphs, jobs: Jobs, log: Logger) {
    this.#graphs = graphs
    this.#jobs = jobs
    this.#log = log
  }

  async toNode(args: Arguments<'blockdev-mirror'>): Promise<void> {
    const { directory } = this.#graphs
    const source = findSource(directory, args.device)
    const target = findNode(directory, args.target)
    checkGranularity(args.granularity)
    if (userAbove(directory, target) !== undefined) throw new CommandError(busyText(target))
    checkValues(directory, args, source)
    if (target === source) throw new CommandError("Can't mirror node into itself")
    const filterName = args['filter-node-name']
    if (filterName !== undefined) directory.checkNewName(filterName)
    const claim = this.#claim(args, source, args['job-id'] ?? '', filterName, () => {
      if (directory.report(target)?.readOnly === true) throw new CommandError('Block node is read-only')
      checkApart(this.#graphs, source, target)
      this.#graphs.checkUnchanging(target)
    })
    target.use = { job: claim.id, role: 'target' }
    await this.#withClaim(claim, async () => {
      try {
        const worker = await this.#join([source, target], claim)
        await this.#start(args, claim, target, worker, { unmap: true, ownsTarget: false })
      } catch (error) {
        target.use = undefined
        throw error
      }
    })
  }

  async toFile(args: Arguments<'drive-mirror'>): Promise<void> {
    const { directory } = this.#graphs
    const source = findSource(directory, args.device)
    if (args.replaces !== undefined && args['node-name'] === undefined)
      throw new CommandError('a node-name must be provided when replacing a named node of the graph')
    const existing = args.mode === 'existing'
    checkFormat(args.format, existing)
    const nodeName = args['node-name']
    if (nodeName !== undefined) directory.checkNewName(nodeName)
    checkGranularity(args.granularity)
    checkValues(directory, args, source)
    // A node serves as the drive it is here: the job is named after it when nobody names it.
    const claim = this.#claim(args, source, args['job-id'] ?? source.name, undefined)
    await this.#withClaim(claim, async () => {
      using made = new MirrorTarget(this.#graphs, args, source)
      const worker = await this.#join([source], claim)
      try {
        const format = await made.format(worker)
        if (!existing) await made.make(format, worker)
        const target = await made.open(format, claim.id, worker)
        target.use = { job: claim.id, role: 'target' }
        try {
          checkApart(this.#graphs, source, target)
          worker.hold()
          await this.#start(args, claim, target, worker, { unmap: args.unmap ?? true, ownsTarget: true })
        } catch (error) {
          target.use = undefined
          await this.#discard(target)
          throw error
        }
      } finally {
        worker.release()
      }
    })
  }

  /** Takes job id, filter name and source, after the last checks. */
  #claim(
    args: MirrorArguments,
    source: Node,
    id: string,
    filterName: string | undefined,
    check: () => void = () => {},
  ): Claim {
    const { directory } = this.#graphs
    const reservation = this.#jobs.reserve(id, args['x-budget'])
    try {
      checkSpeed(args)
      this.#graphs.checkUnchanging(source)
      check()
      const filter = directory.enter(
        { driver: 'mirror_top', 'node-name': filterName, file: source.name },
        { kind: 'job', name: id },
      )
      filter.use = { job: id, role: 'filter' }
      source.use = { job: id, role: 'source' }
      return { id, reservation, source, filter }
    } catch (error) {
      this.#jobs.giveBack(reservation)
      throw error
    }
  }

  /** Runs the steps of a start; gives back what was claimed when one fails. */
  async #withClaim(claim: Claim, steps: () => Promise<void>): Promise<void> {
    try {
      await steps()
    } catch (error) {
      this.#unclaim(claim)
      this.#jobs.giveBack(claim.reservation)
      throw error
    }
  }

  #unclaim({ source, filter }: Claim): void {
    source.use = undefined
    this.#graphs.directory.remove(filter)
  }

  async #join(nodes: readonly Node[], { id, filter }: Claim): Promise<DiskWorker> {
    return await this.#graphs.join(nodes, id, new Set([filter]))
  }

  /** @param worker  held for the job; released when the job is over or never was */
  async #start(
    args: MirrorArguments,
    claim: Claim,
    target: Node,
    worker: DiskWorker,
    how: Pick<MirrorSpec, 'unmap' | 'ownsTarget'>,
  ): Promise<void> {
    const { reservation, source, filter } = claim
    this.#graphs.directory.renew(filter)
    this.#graphs.directory.place([filter], worker)
    filter.state = 'open'
    const spec: MirrorSpec = { ...mirrorSpec(args, source, target, filter), ...how }
    const plan: Omit<JobPlan, 'id'> = {
      type: 'mirror',
      speed: spec.speed,
      copyMode: spec.copyMode,
      autoFinalize: args['auto-finalize'] ?? true,
      autoDismiss: args['auto-dismiss'] ?? true,
    }
    const end = () => {
      target.use = undefined
      this.#unclaim(claim)
      worker.release()
    }
    try {
      await this.#jobs.start(reservation, plan, spec, worker.handle, end)
    } catch (error) {
      worker.release()
      throw error
    }
  }

  /** Closes a target that no job got. */
  async #discard(target: Node): Promise<void> {
    try {
      await this.#graphs.close(target)
    } catch (error) {
      this.#log.debug({ node: target.name, err: error }, 'target of a refused mirror not closed')
    }
  }
}

function mirrorSpec(args: MirrorArguments, source: Node, target: Node, filter: Node) {
  return {
    kind: 'mirror',
    source: source.name,
    target: target.name,
    // Others were refused; a source without backing file is copied whole either way.
    sync: args.sync === 'none' ? 'none' : args.sync === 'top' ? 'top' : 'full',
    filter: filter.name,
    granularity: args.granularity ?? 0,
    bufSize: args['buf-size'] ?? 0,
    speed: args.speed ?? 0,
    onSourceError: args['on-source-error'] ?? 'report',
    onTargetError: args['on-target-error'] ?? 'report',
    copyMode: args['copy-mode'] ?? 'background',
    onDiverge: args['x-on-diverge'] ?? 'report',
    targetIsZero: args['target-is-zero'] ?? false,
    autoComplete: args['x-auto-complete'] ?? false,
  } as const
}
