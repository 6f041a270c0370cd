// SPDX-License-Identifier: Apache-2.0
// The target of drive-mirror and drive-backup: in which format, made how, opened how. Used by copy-starter.ts when the
// arguments have been checked and the source is claimed.

import path from 'node:path'
import { isFilter } from '../../common/filter-drivers.js'
import { CommandError } from '../../errors.js'
import type { NodeReport, Qcow2CreateSpec } from '../../iothread/messages.js'
import { usualImage } from '../../iothread/messages-create.js'
import type { SetUse } from '../descriptors.js'
import type { Definition, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { DiskWorker } from '../workers.js'

export type TargetFormat = 'raw' | 'qcow2'

/** What users say of it. */
export interface TargetArguments {
  readonly target: string
  readonly sync: string
  readonly format?: string
  readonly mode?: 'existing' | 'absolute-paths'
  readonly 'node-name'?: string
  readonly unmap?: boolean
}

/** The job that is to write it. one-shot: a mirror that excludes other writers of its source. */
export type TargetJob = 'mirror' | 'one-shot' | 'backup'

/** @throws CommandError for a format that is not known */
export function checkFormat(format: string | undefined, existing: boolean): void {
  if (format === undefined || format === 'raw' || format === 'qcow2') return
  throw new CommandError(existing ? `Unknown driver '${format}'` : `Unknown file format '${format}'`)
}

export class TargetFile implements Disposable {
  readonly #graphs: Graphs
  readonly #args: TargetArguments
  readonly #job: TargetJob
  readonly #source: Node
  /** The set of descriptors that the target's name means. */
  readonly #set: SetUse | undefined

  /** @throws CommandError when its name means a set that is not there */
  constructor(graphs: Graphs, args: TargetArguments, source: Node, job: TargetJob) {
    this.#graphs = graphs
    this.#args = args
    this.#job = job
    this.#source = source
    this.#set = graphs.directory.useSet(args.target)
  }

  /** It is open, or nobody will open it. */
  [Symbol.dispose](): void {
    this.#set?.release()
  }

  /**
   * Format of the target: as asked, else a new one has the source's, and one that is there is raw. What is in it
   * does not decide: a guest can write any header into its raw disk.
   * @param worker  where the source is
   * @throws CommandError when the target begins as a qcow2 image: nobody means to overwrite one with a raw disk
   */
  async format(worker: DiskWorker): Promise<TargetFormat> {
    const { format, mode, target } = this.#args
    if (format === 'raw' || format === 'qcow2') return format
    if (mode === 'existing') {
      const files = this.#set?.files()
      const filename = files?.read ?? files?.both ?? target
      if ((await worker.request('target-probe', { filename })) === 'raw') return 'raw'
      throw new CommandError(`'${target}' begins as a qcow2 image: say with 'format' whether it is one`)
    }
    return unfiltered(worker, this.#source.name)?.driver === 'qcow2' ? 'qcow2' : 'raw'
  }

  /** Makes the target's file, unless it is a file that is in use here, and the image in it. */
  async make(format: TargetFormat, worker: DiskWorker): Promise<void> {
    const { directory } = this.#graphs
    const { target } = this.#args
    const size = directory.report(this.#source)?.size ?? 0
    const image = format === 'qcow2' ? this.#image(size, worker) : undefined
    if (image === undefined) this.#checkNoBacking(worker)
    const refuse = [...this.#graphs.identities(directory.tree(this.#source)), ...this.#graphs.held()]
    const length = image === undefined ? size : 0
    const files = this.#set?.files()
    await worker.request('target-create', {
      spec: { kind: 'create', driver: 'file', filename: target, files, size: length, preallocation: 'off' },
      image,
      refuse,
      source: this.#source.name,
      job: this.#job,
    })
  }

  /** A format, or raw, over its file, cached as the source is. */
  async open(format: TargetFormat, job: string, worker: DiskWorker): Promise<Node> {
    const source = this.#graphs.directory.report(this.#source)
    const name = this.#args['node-name']
    const owner = { kind: 'job', name: job } as const
    const open = (driver: 'file' | 'host_device'): Promise<Node> => {
      const definition: Definition = {
        driver: format,
        ...(name !== undefined && { 'node-name': name }),
        discard: (this.#args.unmap ?? true) ? 'unmap' : 'ignore',
        cache: { direct: source?.cache.direct ?? false, 'no-flush': source?.cache.noFlush ?? false },
        file: { driver, filename: this.#args.target },
        ...(format === 'qcow2' && this.#below(worker)),
      }
      return this.#graphs.open(definition, owner, worker)
    }
    try {
      return await open('file')
    } catch (error) {
      const device = error instanceof CommandError && error.message.includes('to be a regular file')
      if (!device) throw error
      return await open('host_device')
    }
  }

  /**
   * What shows through the target: of one that is there, what it names; of a copy of the uppermost layer, what the source
   * lies above, so that zeroes hide it. A backup of what is about to be replaced lies above the source; of a mirror nothing of
   * the source shows before the job is over, though the image names it.
   */
  #below(worker: DiskWorker): { backing?: string | null } {
    if (this.#args.mode === 'existing') return {}
    const backing = this.#backing(worker)
    if (backing === undefined) return {}
    const shows = this.#args.sync === 'top' || this.#job === 'backup'
    return { backing: shows ? backing.name : null }
  }

  #image(size: number, worker: DiskWorker): Qcow2CreateSpec {
    const backing = this.#backing(worker)
    const file = { driver: 'file', 'node-name': this.#graphs.directory.generateName() }
    return {
      ...{ kind: 'create', driver: 'qcow2', dataFile: undefined },
      file: { ...file, filename: this.#args.target, files: this.#set?.files() },
      options: {
        ...usualImage(size),
        backingFile: backing === undefined ? undefined : nameFor(backing.filename),
        backingFormat: backing === undefined ? undefined : backing.driver === 'qcow2' ? 'qcow2' : 'raw',
      },
    }
  }

  /** What the new image is to lie above: the source's backing file (top), the source itself (none), or nothing. */
  #backing(worker: DiskWorker): NodeReport | undefined {
    const source = unfiltered(worker, this.#source.name)
    if (this.#args.sync === 'none') return source
    const backing = this.#args.sync === 'top' ? source?.children.backing : undefined
    return backing === undefined ? undefined : unfiltered(worker, backing)
  }

  #checkNoBacking(worker: DiskWorker): void {
    if (this.#args.sync === 'none') throw new CommandError("Backing file not supported for file format 'raw'")
    if (this.#args.sync === 'top' && this.#backing(worker) !== undefined)
      throw new CommandError("Backing file not supported for file format 'raw'")
  }
}

/** A name that means the same from everywhere. */
function nameFor(filename: string): string {
  return filename.startsWith('json:') ? filename : path.resolve(filename)
}

/** The node, or the first below it that is no filter. */
function unfiltered(worker: DiskWorker, name: string): NodeReport | undefined {
  let report = worker.reports.get(name)
  while (report !== undefined && isFilter(report.driver)) {
    const below: string | undefined = report.children.file ?? report.children.image
    report = below === undefined ? undefined : worker.reports.get(below)
  }
  return report
}
