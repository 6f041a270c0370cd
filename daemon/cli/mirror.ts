// SPDX-License-Identifier: Apache-2.0
// `blockferry mirror`: opens both ends in a daemon, starts the job, shows it, and says how it ended.
// A file as target is made or emptied by the daemon (drive-mirror); a device is opened as a node (blockdev-mirror).

import { randomBytes } from 'node:crypto'
import { formatDuration, formatRate, formatSize } from '../common/units.js'
import { type Client, ConnectionLost, QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import type { Daemon } from './daemon.js'
import { Interrupt } from './interrupt.js'
import { JobFollower, type Outcome, type Progress } from './job-follower.js'
import { JsonResult } from './json-result.js'
import { type Ends, jobArguments, lookAt, type MirrorOptions, nodeDefinition } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { type Reporter, reporter } from './reporter.js'
import { CliError, exitStatus, failed } from './status.js'

/** Milliseconds after ^C until the user is told what is waited for. */
const patienceMs = 2000

/** @throws CliError for every end but success */
export async function mirror(sourceName: string, targetName: string, options: MirrorOptions): Promise<void> {
  const result = options.json ? new JsonResult(sourceName, targetName) : undefined
  try {
    const ends = await lookAt(sourceName, targetName, options.existing)
    await mirrorEnds(ends, options, result)
  } catch (error) {
    result?.tellError(error)
    throw error
  }
}

async function mirrorEnds(ends: Ends, options: MirrorOptions, result: JsonResult | undefined): Promise<void> {
  const daemon = await connectOrEmbed(options)
  const run = new MirrorRun(daemon, ends, options, result)
  using _ = new Interrupt(
    (status) => run.cancel(status),
    (status) => run.leave(status),
  )
  try {
    run.finish(await run.start())
  } catch (error) {
    throw run.describe(error)
  } finally {
    run.end()
    await daemon.close()
  }
}

class MirrorRun {
  readonly #daemon: Daemon
  readonly #client: Client
  readonly #ends: Ends
  readonly #options: MirrorOptions
  readonly #result: JsonResult | undefined
  readonly #report: Reporter
  readonly #jobId: string
  readonly #sourceNode: string
  readonly #targetNode: string
  readonly #startedAt = performance.now()
  #state: 'opening' | 'running' | 'over' = 'opening'
  /** Exit status of the signal that asked for an end. */
  #cancelled: number | undefined
  /** The target may have been changed. */
  #touched = false
  #patience: NodeJS.Timeout | undefined

  constructor(daemon: Daemon, ends: Ends, options: MirrorOptions, result: JsonResult | undefined) {
    const tag = randomBytes(4).toString('hex')
    this.#daemon = daemon
    this.#client = daemon.client
    this.#ends = ends
    this.#options = options
    this.#result = result
    this.#report = reporter(options)
    this.#jobId = options.jobId ?? `mirror-${tag}`
    this.#sourceNode = `source-${tag}`
    this.#targetNode = `target-${tag}`
  }

  /** Opens, starts and follows. @returns how the job ended */
  async start(): Promise<Outcome> {
    const follower = new JobFollower(this.#client, this.#jobId, {
      event: (event) => this.#report.event(event),
      progress: (progress) => this.#report.progress(progress),
      stopped: (operation, progress) => this.#stopped(operation, progress),
    })
    try {
      await this.#open()
      this.#state = 'running'
      if (this.#cancelled !== undefined) await this.#sendCancel()
      const outcome = await follower.outcome()
      this.#state = 'over'
      return outcome
    } finally {
      follower.stop()
      await this.#closeNodes()
    }
  }

  /** First ^C. */
  cancel(status: number): void {
    this.#cancelled = status
    if (this.#state === 'running') void this.#sendCancel()
    this.#patience = setTimeout(() => {
      this.#report.note('still waiting for storage to answer; interrupt again to leave at once')
    }, patienceMs)
  }

  /** Second ^C. */
  leave(status: number): never {
    this.#report.end()
    this.#daemon.kill()
    process.stderr.write(`blockferry: left at once; ${this.#targetState()}\n`)
    process.exit(status)
  }

  end(): void {
    clearTimeout(this.#patience)
    this.#report.end()
  }

  /** Says how it ended. @throws CliError unless the copy is complete */
  finish(outcome: Outcome): void {
    this.end()
    this.#result?.tell(outcome)
    const { source, target } = this.#ends
    if (outcome.kind === 'completed') {
      if (!this.#options.json) process.stdout.write(`${this.#successText(outcome)}\n`)
      return
    }
    const done = outcome.progress
    const amount =
      done === undefined ? '' : `: ${formatSize(done.offset)} of ${formatSize(done.length)} were done`
    const state = `'${target.name}' is incomplete${amount}`
    if (outcome.kind === 'cancelled') {
      throw new CliError(this.#cancelled ?? exitStatus.failed, `mirror cancelled; ${state}`)
    }
    throw failed(`mirror of '${source.name}' failed: ${outcome.error}; ${state}`)
  }

  /** An error as the user is to read it. */
  describe(error: unknown): unknown {
    if (error instanceof QmpError) return failed(this.#refusalText(error.message), { cause: error })
    if (error instanceof ConnectionLost) {
      const words = this.#daemon.lastWords()
      const whose = this.#daemon.embedded ? 'the embedded daemon' : `the daemon at '${this.#daemon.socket}'`
      return failed(`${whose} is gone: ${words ?? error.message}; ${this.#targetState()}`, { cause: error })
    }
    return error
  }

  /** A lock's refusal does not say whose file it is about. */
  #refusalText(message: string): string {
    if (!/^Failed to get .* lock$/.test(message)) return message
    const { source, target } = this.#ends
    return `'${source.name}' or '${target.name}' is in use by another program: ${message}`
  }

  #targetState(): string {
    return this.#touched ? `'${this.#ends.target.name}' is incomplete` : 'nothing was written'
  }

  async #open(): Promise<void> {
    const { direct } = this.#options
    try {
      await this.#openWith(direct ?? true)
    } catch (error) {
      if (direct !== undefined || !(error instanceof QmpError) || !mayBeDirect(error)) throw error
      await this.#closeNodes()
      await this.#openWith(false)
    }
  }

  /** Both ends as nodes, and the job. @param direct  O_DIRECT on both */
  async #openWith(direct: boolean): Promise<void> {
    const { source, target } = this.#ends
    this.#stopIfCancelled()
    const how = { readOnly: true, direct, forceShare: this.#options.forceShare }
    await this.#execute('blockdev-add', nodeDefinition(source, this.#sourceNode, how))
    this.#stopIfCancelled()
    const job = jobArguments(this.#options, this.#jobId, this.#sourceNode)
    if (target.kind === 'block') {
      await this.#addTargetDevice(direct)
      this.#stopIfCancelled()
      this.#touched = true
      await this.#execute('blockdev-mirror', { ...job, target: this.#targetNode })
      return
    }
    this.#touched = true
    await this.#execute('drive-mirror', {
      ...job,
      target: target.path,
      'node-name': this.#targetNode,
      format: 'raw',
      mode: this.#options.existing ? 'existing' : 'absolute-paths',
      unmap: this.#options.unmap,
    })
  }

  /** A device may be larger than the source: then only its beginning is the target. */
  async #addTargetDevice(direct: boolean): Promise<void> {
    const { source, target } = this.#ends
    const how = { readOnly: false, direct, unmap: this.#options.unmap }
    await this.#execute('blockdev-add', nodeDefinition(target, this.#targetNode, how))
    const sourceSize = await sizeOfNode(this.#client, this.#sourceNode)
    const targetSize = await sizeOfNode(this.#client, this.#targetNode)
    if (targetSize === sourceSize) return
    if (targetSize < sourceSize) {
      throw failed(
        `'${target.name}' is too small: ${targetSize} bytes, '${source.name}' has ${sourceSize} bytes`,
      )
    }
    await this.#execute('blockdev-del', { 'node-name': this.#targetNode })
    const definition = nodeDefinition(target, this.#targetNode, { ...how, size: sourceSize })
    await this.#execute('blockdev-add', definition)
  }

  #execute(command: string, args: Parameters<Client['execute']>[1]) {
    return this.#client.execute(command, args)
  }

  #stopIfCancelled(): void {
    if (this.#cancelled !== undefined) throw new CliError(this.#cancelled, 'interrupted; nothing was written')
  }

  async #sendCancel(): Promise<void> {
    // A refusal means that the job is at its end anyway; the loss of the connection is told by the follower.
    await this.#client.execute('job-cancel', { id: this.#jobId }).catch(() => undefined)
  }

  /** Best effort: what is gone already, or held by a job that goes on, stays as it is. */
  async #closeNodes(): Promise<void> {
    for (const name of [this.#targetNode, this.#sourceNode]) {
      await this.#client.execute('blockdev-del', { 'node-name': name }).catch(() => undefined)
    }
  }

  #stopped(operation: string, progress: Progress | undefined): void {
    const why = progress?.ioStatus === 'nospace' ? 'no space left' : `${operation} error`
    const where = operation === 'read' ? this.#ends.source.name : this.#ends.target.name
    const how = `blockferry job resume ${this.#jobId} --socket ${this.#daemon.socket}`
    this.#report.note(`paused by ${why} on '${where}'; go on with: ${how}`)
  }

  #successText(outcome: Outcome): string {
    const { source, target } = this.#ends
    const ms = performance.now() - this.#startedAt
    const { receipt } = outcome
    const copied = receipt?.copied ?? outcome.progress?.offset ?? 0
    const parts = [`${formatSize(copied)} copied`]
    if (receipt !== undefined) {
      parts.push(`${formatSize(receipt.zeroed)} zeroed`, `${formatSize(receipt.skipped)} skipped`)
    }
    const flushed = receipt === undefined || receipt.flush === 'ok' ? 'flushed' : `flush: ${receipt.flush}`
    const errors = outcome.ignoredErrors === 0 ? '' : `, ${outcome.ignoredErrors} errors retried`
    const rate = formatRate((copied / Math.max(1, ms)) * 1000)
    return `mirrored '${source.name}' to '${target.name}': ${parts.join(', ')} in ${formatDuration(ms)} (${rate}), ${flushed}${errors}`
  }
}

/** File systems without O_DIRECT refuse the open with EINVAL. */
function mayBeDirect(error: QmpError): boolean {
  return /O_DIRECT|Invalid argument/.test(error.message)
}
