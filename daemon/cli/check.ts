// SPDX-License-Identifier: Apache-2.0
// `blockferry check`: looks for errors in a qcow2 image and repairs them. Output, JSON members and exit statuses are those
// of `qemu-img check`; the work is a job of the daemon.

import { randomBytes } from 'node:crypto'
import { isJsonName } from '../../protocol/json-name.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { type CacheMode, isDirect, isUnsafe } from './cache-modes.js'
import { type CommandArguments, ConnectionLost, QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import type { Daemon } from './daemon.js'
import { findImage } from './image.js'
import { Interrupt } from './interrupt.js'
import { JobFollower } from './job-follower.js'
import { lookAtImage } from './mirror-request.js'
import { mayBeDirect } from './open-nodes.js'
import { CliError, exitStatus, failed, usage } from './status.js'
import { addNode, type End, storageDefinition } from './storage.js'
import { asList, asObject, numberOf } from './values.js'

export interface CheckOptions {
  readonly repair?: 'leaks' | 'all'
  /** Absent: qcow2, the only one there is a check for. */
  readonly format?: string
  readonly imageOpts: boolean
  readonly sourceCache: CacheMode
  readonly output: 'human' | 'json'
  /** The image may be in use by another program. */
  readonly forceShare: boolean
  readonly socket?: string
  readonly logLevel?: string
}

/** As qemu-img's. */
const checkStatus = { clean: 0, failed: 1, corruptions: 2, leaks: 3, unsupported: 63 } as const

/** Names of the counters, in the order in which JSON shows them. The first and the second are always there. */
const counters = [
  'check-errors',
  'image-end-offset',
  'corruptions',
  'leaks',
  'corruptions-fixed',
  'leaks-fixed',
  'total-clusters',
  'allocated-clusters',
  'fragmented-clusters',
  'compressed-clusters',
] as const

type Counters = Record<(typeof counters)[number], number>

/** @throws CliError unless the image is clean */
export async function check(image: string, options: CheckOptions): Promise<void> {
  const found = await count(image, options).catch((error: unknown) => {
    // What stands in the way of a check is nothing that was found.
    const nothingFound: readonly number[] = [exitStatus.usage, exitStatus.noConnection]
    if (!(error instanceof CliError) || !nothingFound.some((one) => one === error.status)) throw error
    throw failed(error.message, { cause: error })
  })
  finish(image, found, options)
}

async function count(image: string, options: CheckOptions): Promise<Counters> {
  const storage = await storageOf(image, options)
  if (options.format !== undefined && options.format !== 'qcow2') throw unsupported()
  const daemon = await connectOrEmbed(options)
  try {
    const run = new CheckRun(daemon, storage, options)
    using _ = new Interrupt(
      () => run.cancel(),
      (status) => {
        daemon.kill()
        process.exit(status)
      },
    )
    return await run.both()
  } catch (error) {
    if (error instanceof QmpError) throw failed(error.whole, { cause: error })
    if (error instanceof ConnectionLost) throw failed(error.message, { cause: error })
    throw error
  } finally {
    await daemon.close()
  }
}

/** What an image lies on. */
interface Storage {
  readonly end: End
  readonly definition: CommandArguments
  /** What the user said of it; goes before the mode. */
  readonly cache: JsonObject
}

/** @throws CliError where it is missing, or no image that can be checked */
async function storageOf(name: string, { format, imageOpts, repair }: CheckOptions): Promise<Storage> {
  if (!imageOpts && !isJsonName(name)) {
    const end = await lookAtImage(name)
    return { end, definition: storageDefinition(end), cache: {} }
  }
  if (imageOpts && format !== undefined) throw usage('--image-opts and a format are mutually exclusive')
  const { end, options } = await findImage(name, format === 'qcow2' ? format : undefined, imageOpts)
  if (options?.driver !== 'qcow2') throw unsupported()
  const { driver: _, file, cache, ...more } = options
  const below = asObject(file)
  if (below === undefined) throw usage(`'${name}': what the image lies on must be told by options`)
  const [other] = Object.keys(more)
  if (other !== undefined) throw usage(`'${name}': a check takes the driver and the file, not '${other}'`)
  if (repair !== undefined && below['read-only'] === true)
    throw usage(`'${name}' is to be repaired and says that it is read-only`)
  return { end, definition: below, cache: { ...asObject(cache), ...asObject(below.cache) } }
}

class CheckRun {
  readonly #daemon: Daemon
  readonly #storage: Storage
  readonly #options: CheckOptions
  #job: string | undefined

  constructor(daemon: Daemon, storage: Storage, options: CheckOptions) {
    this.#daemon = daemon
    this.#storage = storage
    this.#options = options
  }

  /** The check, and after a repair that changed something another one. */
  async both(): Promise<Counters> {
    const { repair, output } = this.#options
    const first = await this.#one(repair)
    const [leaks, corruptions] = [first['leaks-fixed'], first['corruptions-fixed']]
    if (leaks === 0 && corruptions === 0) return first
    if (output === 'human') {
      process.stdout.write(
        `The following inconsistencies were found and repaired:\n\n    ${leaks} leaked clusters\n    ` +
          `${corruptions} corruptions\n\nDouble checking the fixed image now...\n`,
      )
    }
    const second = await this.#one(undefined)
    return { ...second, 'leaks-fixed': leaks, 'corruptions-fixed': corruptions }
  }

  /** ^C */
  cancel(): void {
    // A refusal means that the job is at its end anyway; the loss of the connection is told by the follower.
    if (this.#job !== undefined)
      this.#daemon.client.execute('job-cancel', { id: this.#job }).catch(() => undefined)
  }

  async #one(repair: CheckOptions['repair']): Promise<Counters> {
    const { client } = this.#daemon
    const name = `check-${randomBytes(4).toString('hex')}`
    await this.#add(name, repair === undefined)
    const follower = new JobFollower(client, name, {
      event: () => undefined,
      progress: () => undefined,
      stopped: () => undefined,
    })
    try {
      await client.execute('x-check', { 'job-id': name, node: name, repair })
      this.#job = name
      const { error, result } = await follower.outcome()
      if (error !== undefined || result === undefined) throw this.#failure(error ?? 'no result')
      tellLines(result)
      return countersOf(result)
    } finally {
      this.#job = undefined
      follower.stop()
      await client.execute('blockdev-del', { 'node-name': name }).catch(() => undefined)
    }
  }

  /** With O_DIRECT where it is wanted and the file system has it. */
  async #add(name: string, readOnly: boolean): Promise<void> {
    const { sourceCache, forceShare } = this.#options
    const { end, definition, cache } = this.#storage
    const add = (direct: boolean) =>
      addNode(this.#daemon.client, end, {
        ...definition,
        'node-name': name,
        'read-only': readOnly,
        ...(forceShare && { 'force-share': true }),
        cache: { direct, 'no-flush': isUnsafe(sourceCache), ...cache },
      })
    const wanted = isDirect(sourceCache)
    await add(wanted).catch((error: unknown) => {
      if (!wanted || !(error instanceof QmpError) || !mayBeDirect(error)) throw error
      return add(false)
    })
  }

  #failure(error: string): CliError {
    if (error === 'Image is not in qcow2 format' && this.#options.format === undefined) return unsupported()
    return failed(`cannot check '${this.#storage.end.name}': ${error}`)
  }
}

function unsupported(): CliError {
  return new CliError(checkStatus.unsupported, 'This image format does not support checks')
}

function tellLines(result: JsonObject): void {
  for (const line of asList(result.lines)) process.stderr.write(`${String(line)}\n`)
  const left = numberOf(result, 'lines-left-out') ?? 0
  if (left > 0) process.stderr.write(`and ${left} more\n`)
}

function countersOf(result: JsonObject): Counters {
  const values = counters.map((name) => [name, numberOf(result, name) ?? 0] as const)
  return { ...zeroCounters, ...Object.fromEntries(values) }
}

const zeroCounters: Counters = {
  'check-errors': 0,
  'image-end-offset': 0,
  corruptions: 0,
  leaks: 0,
  'corruptions-fixed': 0,
  'leaks-fixed': 0,
  'total-clusters': 0,
  'allocated-clusters': 0,
  'fragmented-clusters': 0,
  'compressed-clusters': 0,
}

function finish(image: string, found: Counters, { output }: CheckOptions): void {
  process.stdout.write(output === 'json' ? jsonText(image, found) : humanText(found))
  const { clean: _, ...bad } = checkStatus
  if (found['check-errors'] > 0) throw new CliError(bad.failed)
  if (found.corruptions > 0) throw new CliError(bad.corruptions)
  if (found.leaks > 0) throw new CliError(bad.leaks)
}

/** Counters that are zero are left out, but for the number of errors. */
export function jsonText(image: string, found: Counters): string {
  const shown = counters.filter((name) => name === 'check-errors' || found[name] > 0)
  const object = {
    filename: image,
    format: 'qcow2',
    ...Object.fromEntries(shown.map((name) => [name, found[name]])),
  }
  return `${JSON.stringify(object, null, 4)}\n`
}

export function humanText(found: Counters): string {
  const { corruptions, leaks } = found
  const errors = found['check-errors']
  let text = corruptions + leaks + errors === 0 ? 'No errors were found on the image.\n' : ''
  if (corruptions > 0) {
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n'
  }
  if (leaks > 0) {
    text +=
      `\n${leaks} leaked clusters were found on the image.\n` +
      'This means waste of disk space, but no harm to data.\n'
  }
  if (errors > 0) text += `\n${errors} internal errors have occurred during the check.\n`
  const [total, allocated] = [found['total-clusters'], found['allocated-clusters']]
  if (total > 0 && allocated > 0) {
    const share = (part: number, whole: number) => ((part * 100) / whole).toFixed(2)
    text +=
      `${allocated}/${total} = ${share(allocated, total)}% allocated, ` +
      `${share(found['fragmented-clusters'], allocated)}% fragmented, ` +
      `${share(found['compressed-clusters'], allocated)}% compressed clusters\n`
  }
  if (found['image-end-offset'] > 0) text += `Image end offset: ${found['image-end-offset']}\n`
  return text
}
