// SPDX-License-Identifier: Apache-2.0
// block-commit, block-stream: checks in QEMU's order with its texts, then a job in the worker of the chain. Nodes, names and
// the job's id are taken before the first wait.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { JobSpec } from '../../iothread/messages.js'
import type { ChainSpec, FilterSpec } from '../../iothread/messages-chain.js'
import type { Handlers } from '../commands.js'
import type { Directory, Node, NodeUse } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import { backingSpec, chainOf, imageNamed, imagesOf } from './chain-names.js'
import { findNode } from './mirror-checks.js'
import { busyText, userAbove } from './nodes.js'

type CommitArguments = Arguments<'block-commit'>
type StreamArguments = Arguments<'block-stream'>

export function chainHandlers(graphs: Graphs, jobs: Jobs) {
  return {
    'block-commit': (args) => commit(graphs, jobs, args),
    'block-stream': (args) => stream(graphs, jobs, args),
  } satisfies Handlers
}

async function commit(graphs: Graphs, jobs: Jobs, args: CommitArguments): Promise<void> {
  const { directory } = graphs
  const device = directory.find(args.device)
  // Managers recognise the command by the class of this error.
  if (device === undefined) throw new CommandError(`Device '${args.device}' not found`, 'DeviceNotFound')
  if (device.use !== undefined || device.parents.size > 0) throw new CommandError('Need a root block node')
  const images = imagesOf(directory, device)
  const top = topOf(directory, device, images, args)
  const base = baseOf(directory, top, args)
  const way = chainOf(directory, top)
  for (const node of way.slice(0, way.indexOf(base) + 1)) checkFree(directory, node)
  if (top === base) throw new CommandError('cannot commit an image into itself')
  const active =
    chainOf(directory, device).indexOf(top) <= chainOf(directory, device).indexOf(images[0] ?? top)
  if (active && args['backing-file'] !== undefined)
    throw new CommandError("'backing-file' specified, but 'top' is the active layer")
  const start = new ChainJob(graphs, jobs, 'commit', args)
  const used = chainOf(directory, device)
  const members = used.slice(0, used.indexOf(base) + 1)
  if (active) return start.active(members)
  const filter = { driver: 'commit_top', above: top } as const
  const overlay = images[images.indexOf(top) - 1] ?? device
  const backing = backingSpec(directory, base, args['backing-file'])
  await start.run(members, filter, (tuning) => ({
    ...{ kind: 'commit', overlay: overlay.name, top: top.name, base: base.name, backing, ...tuning },
  }))
}

function topOf(
  directory: Directory,
  device: Node,
  images: readonly Node[],
  { top, 'top-node': topNode }: CommitArguments,
): Node {
  if (topNode !== undefined && top !== undefined)
    throw new CommandError("'top-node' and 'top' are mutually exclusive")
  if (topNode !== undefined) {
    const node = named(directory, topNode)
    if (chainOf(directory, device).includes(node)) return node
    throw new CommandError(`'${topNode}' is not in this backing file chain`)
  }
  if (top === undefined) return device
  const found = imageNamed(directory, images, top, 0)
  if (found === undefined) throw new CommandError(`Top image file ${top} not found`)
  return found === images[0] ? device : found
}

function baseOf(directory: Directory, top: Node, { base, 'base-node': baseNode }: CommitArguments): Node {
  if (baseNode !== undefined && base !== undefined)
    throw new CommandError("'base-node' and 'base' are mutually exclusive")
  if (baseNode !== undefined) {
    const node = named(directory, baseNode)
    if (chainOf(directory, top).includes(node)) return node
    throw new CommandError(`'${baseNode}' is not in this backing file chain`)
  }
  const images = imagesOf(directory, top)
  if (base === undefined) return images.length > 1 ? (images.at(-1) ?? top) : top
  const found = imageNamed(directory, images, base, 1)
  if (found === undefined) throw new CommandError(`Can't find '${base}' in the backing chain`)
  return found
}

async function stream(graphs: Graphs, jobs: Jobs, args: StreamArguments): Promise<void> {
  const { directory } = graphs
  const device = findNode(directory, args.device)
  const base = streamBase(directory, device, args)
  const way = chainOf(directory, device)
  const members = base === undefined ? way : way.slice(0, way.indexOf(base))
  for (const node of members) checkFree(directory, node)
  if (base === undefined && args['backing-file'] !== undefined)
    throw new CommandError('backing file specified, but streaming the entire chain')
  const [image] = imagesOf(directory, device)
  const backing = base && backingSpec(directory, base, args['backing-file'])
  const filter = { driver: 'copy-on-read', above: device } as const
  await new ChainJob(graphs, jobs, 'stream', args).run(members, filter, (tuning) => ({
    ...{ kind: 'stream', node: (image ?? device).name, base: base?.name, backing, ...tuning },
  }))
}

function streamBase(directory: Directory, device: Node, args: StreamArguments): Node | undefined {
  const { base, 'base-node': baseNode, bottom } = args
  const together = (one: string, other: string) =>
    new CommandError(`'${one}' and '${other}' cannot be specified at the same time`)
  if (base !== undefined && baseNode !== undefined) throw together('base', 'base-node')
  if (base !== undefined && bottom !== undefined) throw together('base', 'bottom')
  if (bottom !== undefined && baseNode !== undefined) throw together('bottom', 'base-node')
  const way = chainOf(directory, device)
  if (base !== undefined) {
    const found = imageNamed(directory, imagesOf(directory, device), base, 1)
    if (found === undefined) throw new CommandError(`Can't find '${base}' in the backing chain`)
    return found
  }
  if (baseNode !== undefined) {
    const node = named(directory, baseNode)
    if (node !== device && way.includes(node)) return node
    throw new CommandError(`Node '${baseNode}' is not a backing image of '${device.name}'`)
  }
  if (bottom === undefined) return undefined
  const lowest = named(directory, bottom)
  if (!imagesOf(directory, device).includes(lowest))
    throw new CommandError(`Node '${bottom}' is not in a chain starting from '${device.name}'`)
  return directory.child(lowest, 'backing')
}

function named(directory: Directory, name: string): Node {
  const node = directory.find(name)
  if (node === undefined) throw new CommandError(`Cannot find device='' nor node-name='${name}'`)
  return node
}

function checkFree(directory: Directory, node: Node): void {
  if (userAbove(directory, node) !== undefined) throw new CommandError(busyText(directory, node))
}

interface Tuning {
  readonly speed: number
  readonly onError: 'report' | 'ignore' | 'enospc' | 'stop' | 'auto'
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
}

/** What managers look for while the job runs. */
interface FilterPlace {
  readonly driver: 'mirror_top' | 'commit_top' | 'copy-on-read'
  readonly above: Node
}

/** A job on nodes of one chain, which are in one worker. */
class ChainJob {
  readonly #graphs: Graphs
  readonly #jobs: Jobs
  readonly #type: 'commit' | 'stream'
  readonly #args: CommitArguments | StreamArguments

  constructor(
    graphs: Graphs,
    jobs: Jobs,
    type: 'commit' | 'stream',
    args: CommitArguments | StreamArguments,
  ) {
    this.#graphs = graphs
    this.#jobs = jobs
    this.#type = type
    this.#args = args
  }

  /** The commit of an active image keeps its base equal until it is completed. @param members  from the device to the base */
  async active(members: readonly Node[]): Promise<void> {
    const [source, target] = [members[0], members.at(-1)]
    if (source === undefined || target === undefined) return
    const filter = { driver: 'mirror_top', above: source } as const
    await this.#start(members, filter, (top, { speed, onError, yielding }) => ({
      ...{ kind: 'mirror', source: source.name, target: target.name, sync: 'full', filter: top.name },
      ...{ granularity: 0, bufSize: 0, speed, onSourceError: onError, onTargetError: onError },
      ...{
        copyMode: 'background',
        onDiverge: 'report',
        yielding,
        unmap: true,
        targetIsZero: false,
        autoComplete: false,
        ownsTarget: false,
      },
      commit: true,
    }))
  }

  async run(
    members: readonly Node[],
    filter: FilterPlace,
    spec: (tuning: Tuning & { readonly filter: FilterSpec }) => ChainSpec,
  ): Promise<void> {
    await this.#start(members, filter, ({ name }, tuning) =>
      spec({ ...tuning, filter: { name, below: filter.above.name } }),
    )
  }

  async #start(
    members: readonly Node[],
    { driver, above }: FilterPlace,
    specOf: (filter: Node, tuning: Tuning) => JobSpec,
  ): Promise<void> {
    const { directory } = this.#graphs
    const { speed = 0, 'on-error': onError = 'report', 'job-id': id = '' } = this.#args
    const tuning = { speed, onError, yielding: this.#args['x-yield'] ?? true }
    const reservation = this.#jobs.reserve(id, this.#args['x-budget'])
    const use = (use: NodeUse | undefined) => {
      for (const node of members) node.use = use
    }
    const worker = members[0]?.worker
    let filter: Node
    try {
      if (speed < 0) throw new CommandError("Parameter 'speed' expects a non-negative value")
      for (const node of members) this.#graphs.checkUnchanging(node)
      if (worker === undefined) throw new CommandError(`Node '${members[0]?.name}' was lost`)
      const name = this.#args['filter-node-name']
      const definition = { driver, 'node-name': name, file: above.name }
      filter = directory.enter(definition, { kind: 'job', name: id })
      use({ job: id, role: 'chain', type: this.#type })
      worker.hold()
    } catch (error) {
      this.#jobs.giveBack(reservation)
      throw error
    }
    const end = () => {
      use(undefined)
      directory.remove(filter)
      worker.release()
      void this.#graphs.closeUnused()
    }
    filter.use = { job: id, role: 'filter', type: this.#type }
    directory.place([filter], worker)
    filter.state = 'open'
    const plan: Omit<JobPlan, 'id'> = {
      ...{ type: this.#type, speed, copyMode: 'background' },
      autoFinalize: this.#args['auto-finalize'] ?? true,
      autoDismiss: this.#args['auto-dismiss'] ?? true,
    }
    try {
      await this.#jobs.start(reservation, plan, specOf(filter, tuning), worker.handle, end)
    } catch (error) {
      this.#jobs.giveBack(reservation)
      end()
      throw error
    }
  }
}
