// SPDX-License-Identifier: Apache-2.0
// blockdev-create: a job of type create. Files are made in a worker of their own, so that a slow file system holds up
// nothing else; images where the node is that they go to. What is wrong with the image shows in the job; only names
// and nodes in use are refused at once.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { CreateSpec, NodeFiles, NodeSpec, Qcow2Options } from '../../iothread/messages.js'
import { usualImage } from '../../iothread/messages-create.js'
import type { Handlers } from '../commands.js'
import type { SetUse } from '../descriptors.js'
import type { Definition, Directory, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import type { DiskWorker } from '../workers.js'
import { busyText, userAbove } from './nodes.js'

type Options = Arguments<'blockdev-create'>['options']
type Qcow2Arguments = Extract<Options, { readonly driver: 'qcow2' }>

const plan: Omit<JobPlan, 'id'> = {
  ...{ type: 'create', speed: 0, copyMode: 'background' },
  ...{ autoFinalize: true, autoDismiss: false },
}

export function imageHandlers(graphs: Graphs, jobs: Jobs) {
  return {
    'blockdev-create': async ({ 'job-id': id, options }) => {
      if (options.driver !== 'file' && options.driver !== 'qcow2')
        throw new CommandError('Driver does not support blockdev-create')
      if (options.driver === 'file' && options.size < 0)
        throw new CommandError("Parameter 'options.size' expects a size below 8 PiB")
      if (options.driver === 'qcow2' && options.encrypt !== undefined)
        throw new CommandError(`Encrypted images (${options.encrypt.format}) are not supported`)
      const reservation = jobs.reserve(id)
      const places = new Places(graphs, id)
      try {
        const spec =
          options.driver === 'file'
            ? fileSpec(options, graphs.held(), places)
            : qcow2Spec(options, graphs.held(), places)
        const worker = await places.worker()
        await jobs.start(reservation, plan, spec, worker.handle, () => places.leave())
      } catch (error) {
        jobs.giveBack(reservation)
        places.leave()
        throw error
      }
    },
  } satisfies Handlers
}

function fileSpec(
  options: Extract<Options, { readonly driver: 'file' }>,
  held: ReadonlySet<string>,
  places: Places,
): CreateSpec {
  const { filename, size, preallocation = 'off', nocow: noCow = false } = options
  const files = places.files(filename)
  return { kind: 'create', driver: 'file', filename, files, size, preallocation, noCow, refuse: [...held] }
}

function qcow2Spec(args: Qcow2Arguments, held: ReadonlySet<string>, places: Places): CreateSpec {
  const file = places.enter(args.file, 'file')
  const wanted = args['data-file']
  const dataFile = wanted === undefined ? undefined : places.enter(wanted, 'data-file')
  return {
    ...{ kind: 'create', driver: 'qcow2', file, dataFile, refuse: [...held] },
    options: {
      ...qcow2Options(args),
      dataFileName: wanted === undefined ? undefined : places.filename(wanted),
    },
  }
}

/** Arguments with their defaults. */
function qcow2Options(args: Qcow2Arguments): Qcow2Options {
  const usual = usualImage(args.size)
  return {
    size: args.size,
    version: args.version === 'v2' ? 2 : usual.version,
    clusterSize: args['cluster-size'] ?? usual.clusterSize,
    refcountBits: args['refcount-bits'] ?? usual.refcountBits,
    extendedL2: args['extended-l2'] ?? usual.extendedL2,
    lazyRefcounts: args['lazy-refcounts'] ?? usual.lazyRefcounts,
    compression: args['compression-type'] ?? usual.compression,
    preallocation: args.preallocation ?? usual.preallocation,
    backingFile: args['backing-file'],
    backingFormat: args['backing-fmt'],
    dataFileName: undefined,
    dataFileRaw: args['data-file-raw'] ?? usual.dataFileRaw,
    dataFileCleared: args['x-data-file-cleared'] ?? false,
    noCow: args['x-nocow'] ?? false,
  }
}

/** The nodes one image goes to: held against other commands from the first on until the job is over. */
class Places {
  readonly #graphs: Graphs
  readonly #directory: Directory
  readonly #job: string
  /** Nodes that were there. */
  readonly #used: Node[] = []
  /** Roots of what is defined for the job alone; the worker opens and closes them. */
  readonly #entered: Node[] = []
  readonly #sets: SetUse[] = []
  #worker: DiskWorker | undefined

  constructor(graphs: Graphs, job: string) {
    this.#graphs = graphs
    this.#directory = graphs.directory
    this.#job = job
  }

  /** @returns what the worker is told: a name, which it may find to be nobody's, or a definition */
  enter(wanted: string | Definition, role: string): string | NodeSpec {
    if (typeof wanted !== 'string') {
      const root = this.#directory.enter(wanted, { kind: 'job', name: this.#job })
      this.#entered.push(root)
      return this.#directory.nested(root)
    }
    const node = this.#directory.find(wanted)
    if (node === undefined) return wanted
    if (this.#used.includes(node)) throw conflict(node, role, `an unnamed block device`, 'root')
    const format = [...node.parents].find((name) => this.#directory.find(name)?.spec.driver === 'qcow2')
    if (format !== undefined) throw conflict(node, 'root', `node '${format}'`, 'file')
    if (userAbove(this.#directory, node) !== undefined)
      throw new CommandError(busyText(this.#directory, node))
    this.#graphs.checkUnchanging(node)
    node.use = { job: this.#job, type: 'create', role: 'target' }
    this.#used.push(node)
    return wanted
  }

  /** What a set of descriptors has for a new file, where its name means one. */
  files(filename: string): NodeFiles | undefined {
    const set = this.#directory.useSet(filename)
    if (set === undefined) return undefined
    this.#sets.push(set)
    return set.files()
  }

  /** Name of the file at the bottom, as it was given; undefined where there is none. */
  filename(wanted: string | Definition): string | undefined {
    const node = typeof wanted === 'string' ? this.#directory.find(wanted) : this.#entered.at(-1)
    const leaf = node === undefined ? undefined : this.#directory.tree(node).at(-1)
    return typeof leaf?.spec.filename === 'string' ? leaf.spec.filename : undefined
  }

  /** Where the nodes are, or a worker of its own; held until leave(). */
  async worker(): Promise<DiskWorker> {
    const fresh = this.#entered.flatMap((root) => this.#directory.own(root))
    const own = new Set(fresh)
    const below = fresh.flatMap((node) => this.#directory.children(node)).filter((node) => !own.has(node))
    const there = [...this.#used, ...below]
    this.#worker =
      there.length === 0 ? this.#graphs.startWorker() : await this.#graphs.join(there, this.#job, own)
    this.#directory.place(fresh, this.#worker)
    return this.#worker
  }

  leave(): void {
    for (const node of this.#used.splice(0)) node.use = undefined
    for (const node of this.#entered.splice(0)) this.#directory.remove(node)
    for (const set of this.#sets.splice(0)) set.release()
    this.#worker?.release()
    this.#worker = undefined
    void this.#graphs.closeUnused()
  }
}

function conflict(node: Node, role: string, holder: string, held: string): CommandError {
  return new CommandError(
    `Permission conflict on node '${node.name}': permissions 'write, resize' are both required by an unnamed ` +
      `block device (uses node '${node.name}' as '${role}' child) and unshared by ${holder} (uses node ` +
      `'${node.name}' as '${held}' child).`,
  )
}
