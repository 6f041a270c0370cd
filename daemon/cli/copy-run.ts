// SPDX-License-Identifier: Apache-2.0
// One copy of an image by a mirror job: opens the source, lets a method open the target and start the job, shows it,
// and says how it ended. Used by the commands mirror and convert, which bring the method.

import { randomBytes } from 'node:crypto'
import { formatDuration, formatRate, formatSize } from '../common/units.js'
import { type Client, type CommandArguments, ConnectionLost, QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import type { Daemon } from './daemon.js'
import { DiskWords } from './disk-words.js'
import { addImage, type Image } from './image.js'
import { Interrupt } from './interrupt.js'
import { JobFollower, type Outcome, type Progress } from './job-follower.js'
import type { JsonResult } from './json-result.js'
import { jobArguments, type MirrorOptions } from './mirror-request.js'
import { mayBeDirect } from './open-nodes.js'
import { isLayerOf } from './own-use.js'
import { type Reporter, reporter } from './reporter.js'
import { CliError, exitStatus, failed } from './status.js'
import type { End } from './storage.js'

/** Milliseconds after ^C until the user is told what is waited for. */
const patienceMs = 2000

/** What is copied, and how the target comes to be. */
export interface Copy {
  /** Names of what is done, for messages: 'mirror' and 'mirrored'. */
  readonly verb: string
  readonly done: string
  readonly source: Image
  readonly target: End
  readonly options: MirrorOptions
  /** Nothing is printed but errors. */
  readonly quiet: boolean
  /** A node of the daemon that is the source; undefined: the source is opened. */
  readonly node?: string
  /** The source is opened to be changed too. */
  readonly writable?: boolean
  /** Arguments of the job, without its target; default: a mirror's. */
  job?(id: string, source: string): CommandArguments
  /** Opens the target and starts the job. */
  start(tools: CopyTools): Promise<void>
}

/** What a method is given. */
export interface CopyTools {
  readonly client: Client
  /** O_DIRECT is to be used at both ends. */
  readonly direct: boolean
  /** Arguments of the job, without its target. */
  readonly job: CommandArguments
  readonly source: string
  /** A name for a node, closed when the copy is over; the last one named is closed first. */
  node(what: string): string
  /** Called before what changes the target. @throws CliError when the user wants no more */
  touching(): void
}

/** @throws CliError for every end but success */
export async function runCopy(copy: Copy, result: JsonResult | undefined): Promise<void> {
  const daemon = await connectOrEmbed({ ...copy.options, disks: 2 })
  const run = new CopyRun(daemon, copy, result)
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

class CopyRun {
  readonly #daemon: Daemon
  readonly #client: Client
  readonly #copy: Copy
  /** In the order they were opened. */
  readonly #nodes: string[] = []
  readonly #words: DiskWords
  readonly #options: MirrorOptions
  readonly #result: JsonResult | undefined
  readonly #report: Reporter
  readonly #jobId: string
  readonly #tag = randomBytes(4).toString('hex')
  readonly #startedAt = performance.now()
  #state: 'opening' | 'running' | 'over' = 'opening'
  /** Exit status of the signal that asked for an end. */
  #cancelled: number | undefined
  /** The target may have been changed. */
  #touched = false
  #patience: NodeJS.Timeout | undefined

  constructor(daemon: Daemon, copy: Copy, result: JsonResult | undefined) {
    const { options } = copy
    this.#daemon = daemon
    this.#client = daemon.client
    this.#words = new DiskWords(daemon)
    this.#copy = copy
    this.#options = options
    this.#result = result
    this.#report = reporter(options)
    this.#jobId = options.jobId ?? `${copy.verb}-${this.#tag}`
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

  /** @throws CliError where the lock that was refused is our own */
  async #checkOwnUse(error: unknown, source: string): Promise<void> {
    if (!(error instanceof QmpError || error instanceof CliError)) return
    const refusal = /Failed to get .* lock$/.exec(error.message)?.[0]
    if (refusal === undefined) return
    const { target } = this.#copy
    if (await isLayerOf(this.#client, source, target).catch(() => false))
      throw failed(
        `cannot copy '${this.#copy.source.end.name}' to '${target.name}', which is a layer of it: ${refusal}`,
        { cause: error },
      )
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
    this.#words.end()
    this.#report.end()
  }

  /** Says how it ended. @throws CliError unless the copy is complete */
  finish(outcome: Outcome): void {
    this.end()
    this.#result?.tell(outcome)
    const { source, target, verb, quiet } = this.#copy
    if (outcome.kind === 'completed') {
      if (!this.#options.json && !quiet) process.stdout.write(`${this.#successText(outcome)}\n`)
      return
    }
    const state = `'${target.name}' is incomplete${amountText(outcome)}`
    if (outcome.kind === 'cancelled') {
      throw new CliError(this.#cancelled ?? exitStatus.failed, `${verb} cancelled; ${state}`)
    }
    const { failedOperation: operation } = outcome
    const where = operation === undefined ? '' : `${this.#whereText(operation)}: `
    const why = this.#words.explain(`${where}${outcome.error}`)
    throw failed(`${verb} of '${source.end.name}' failed: ${why}; ${state}`)
  }

  /** An error as the user is to read it. */
  describe(error: unknown): unknown {
    if (error instanceof QmpError) return failed(this.#refusalText(error), { cause: error })
    if (error instanceof ConnectionLost) {
      const words = this.#daemon.lastWords()
      const whose = this.#daemon.embedded ? 'the embedded daemon' : `the daemon at '${this.#daemon.socket}'`
      return failed(`${whose} is gone: ${words ?? error.message}; ${this.#targetState()}`, { cause: error })
    }
    return error
  }

  /** A lock's refusal does not say whose file it is about; its hint does, where the daemon gives one. */
  #refusalText(error: QmpError): string {
    const { message, hint = '', whole } = error
    if (!/^Failed to get .* lock$/.test(message)) return this.#words.explain(whole)
    const { source, target } = this.#copy
    const path = /\[(.*)\]\?$/s.exec(hint)?.[1]
    const end = [source.end, target].find((each) => each.path === path)
    const name = end?.name ?? path ?? `${source.end.name}' or '${target.name}`
    return `'${name}' is in use by another program: ${message}`
  }

  /** What was being done, to which end. */
  #whereText(operation: string): string {
    const { source, target } = this.#copy
    return operation === 'read' ? `reading '${source.end.name}'` : `writing '${target.name}'`
  }

  #targetState(): string {
    return this.#touched ? `'${this.#copy.target.name}' is incomplete` : 'nothing was written'
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
    this.#stopIfCancelled()
    const source = await this.#openSource(direct)
    this.#stopIfCancelled()
    const tools: CopyTools = {
      client: this.#client,
      direct,
      source,
      job: this.#copy.job?.(this.#jobId, source) ?? jobArguments(this.#options, this.#jobId, source),
      node: (what) => this.#node(what),
      touching: () => {
        this.#stopIfCancelled()
        this.#touched = true
      },
    }
    try {
      await this.#copy.start(tools)
    } catch (error) {
      await this.#checkOwnUse(error, source)
      throw error
    }
  }

  async #openSource(direct: boolean): Promise<string> {
    const { node, writable, source } = this.#copy
    if (node !== undefined) return node
    const name = this.#node('source')
    const how = { readOnly: writable !== true, direct, forceShare: this.#options.forceShare }
    await addImage(this.#client, source, name, how)
    return name
  }

  #node(what: string): string {
    const name = `${what}-${this.#tag}`
    if (!this.#nodes.includes(name)) this.#nodes.push(name)
    this.#words.called(name, (what === 'source' ? this.#copy.source.end : this.#copy.target).name)
    return name
  }

  #stopIfCancelled(): void {
    if (this.#cancelled !== undefined)
      throw new CliError(this.#cancelled, `interrupted; ${this.#targetState()}`)
  }

  async #sendCancel(): Promise<void> {
    // A refusal means that the job is at its end anyway; the loss of the connection is told by the follower.
    await this.#client.execute('job-cancel', { id: this.#jobId }).catch(() => undefined)
  }

  /** Best effort: what is gone already, or held by a job that goes on, stays as it is. */
  async #closeNodes(): Promise<void> {
    for (const name of this.#nodes.splice(0).reverse()) {
      await this.#client.execute('blockdev-del', { 'node-name': name }).catch(() => undefined)
    }
  }

  #stopped(operation: string, progress: Progress | undefined): void {
    const why = progress?.ioStatus === 'nospace' ? 'no space left' : `${operation} error`
    const { source, target } = this.#copy
    const where = operation === 'read' ? source.end.name : target.name
    const how = `blockferry job resume ${this.#jobId} --socket ${this.#daemon.socket}`
    this.#report.note(`paused by ${why} on '${where}'; go on with: ${how}`)
  }

  #successText(outcome: Outcome): string {
    const { source, target, done } = this.#copy
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
    return `${done} '${source.end.name}' to '${target.name}': ${parts.join(', ')} in ${formatDuration(ms)} (${rate}), ${flushed}${errors}`
  }
}

/** How much of a copy that is incomplete was done. */
function amountText({ progress, receipt }: Outcome): string {
  if (progress === undefined) return ''
  const { offset, length } = progress
  if (length > 0) return `: ${formatSize(offset)} of ${formatSize(length)} were done`
  // It ended while the job looked at what there is to copy.
  return (receipt?.copied ?? 0) === 0 ? ': nothing was copied' : ''
}
