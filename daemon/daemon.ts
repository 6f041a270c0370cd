// SPDX-License-Identifier: Apache-2.0
// Composition root of blockferryd: makes the parts in order, says when they are ready, takes them down in order.
// Called by run.ts only. The end is bounded: whatever hangs, the process is gone `END_MS` after it was asked to end.

import { rmdirSync } from 'node:fs'
import type { Logger } from 'pino'
import { parseChardev, parseMonitor, parseSocket } from './chardev-options.js'
import { atMost } from './common/deadline.js'
import type { Handlers } from './control/commands.js'
import { ControlPlane } from './control/control.js'
import { sessionCommands } from './control/session-commands.js'
import { Endpoints } from './endpoints.js'
import type { ListenSpec, TlsFiles } from './images/messages.js'
import { parseImagesOption, parseImagesTls } from './images-options.js'
import type { LogWriter } from './log.js'
import type { Options, Step, StepKind } from './options.js'
import type { PidFile } from './pidfile.js'
import { passedDescriptors } from './sockets.js'
import { StartError, Status } from './start-error.js'
import { PROTOCOL_VERSION } from './version.js'

/** From the first signal to the end of the process, milliseconds, at most. */
const END_MS = 4500
/** Of these: for jobs and nodes, and for clients that still read. */
const SHUTDOWN_MS = 3500
const FLUSH_MS = 500

/** What Node's timers can hold: 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** What the daemon needs of the process it lives in. */
export interface DaemonDeps {
  readonly log: Logger
  readonly writer: LogWriter
  /** Locks and writes the pid file. */
  writePidFile(path: string): Promise<PidFile>
  /** Tells the service manager; does nothing without one. */
  notify(state: string): unknown
  /** Ends the process now, whatever its threads do. */
  exitNow(status: number): never
}

/** Options that do what a command does. */
export type DefinitionKind = Extract<StepKind, 'blockdev' | 'object' | 'nbd-server' | 'export'>

/** Commands that work on disks, and their end. */
export interface DiskCommands {
  readonly handlers: Handlers
  shutdown(deadlineMs: number): Promise<void>
  /** `--images` and its like. */
  listenImages(spec: ListenSpec): Promise<void>
  /** Reads credentials again that may have been renewed. Never rejects. */
  reload(): Promise<void>
  /** `--blockdev` and its like of the command line. */
  define(kind: DefinitionKind, text: string): Promise<void>
}

export class Daemon {
  readonly control: ControlPlane
  readonly #options: Options
  readonly #deps: DaemonDeps
  readonly #disks: DiskCommands
  readonly #endpoints: Endpoints
  #pidFile: PidFile | undefined
  /** For https; given before what needs it. */
  #imagesTls: TlsFiles | undefined
  #ending: Promise<void> | undefined

  constructor(options: Options, deps: DaemonDeps, makeDisks: (control: ControlPlane) => DiskCommands) {
    this.#options = options
    this.#deps = deps
    this.control = new ControlPlane({ version: PROTOCOL_VERSION, log: deps.log })
    this.#endpoints = new Endpoints(this.control, deps.log, () => {
      if (options.settings.exitWithMonitor) this.stop('monitor closed')
    })
    this.#disks = makeDisks(this.control)
    this.control.addHandlers(this.#disks.handlers)
    this.control.addHandlers(
      sessionCommands({
        version: PROTOCOL_VERSION,
        dispatcher: this.control.dispatcher,
        chardevs: () => this.#endpoints.info(),
        quit: () => this.#stopWork('quit'),
      }),
    )
  }

  /** Makes everything the options ask for; serves clients when all of it succeeded. Throws StartError. */
  async start(): Promise<void> {
    // A daemon ends when it is told to, also when its only client was a script whose input is over.
    setInterval(() => undefined, LONGEST_TIMER_MS)
    for (const fd of passedDescriptors(process.env, process.pid)) await this.#endpoints.addPassed(fd)
    for (const step of this.#options.steps) await this.#run(step)
    if (this.#endpoints.empty && this.#options.steps.length === 0)
      throw new StartError('nothing to listen on: give --socket PATH (see --help)', Status.usage)
    const { pidfile } = this.#options.settings
    if (pidfile !== undefined) this.#pidFile = await this.#deps.writePidFile(pidfile)
    this.#endpoints.serve()
    this.#deps.notify('READY=1')
    this.#deps.log.info({ pid: process.pid }, 'ready')
  }

  /** Ends in order: refuses work, ends jobs, closes clients, removes files, exits. */
  stop(why: string): void {
    void this.#stopWork(why)
  }

  /** SIGHUP: what may have been renewed is read again. */
  reload(): void {
    void this.#disks.reload()
  }

  /** The start failed: what was made is taken away, and the process ends. */
  async giveUp(status: number): Promise<never> {
    await atMost(this.#disks.shutdown(FLUSH_MS), FLUSH_MS).catch(() => undefined)
    return this.stopNow(status)
  }

  /** Ends at once; only files of ours are removed first. */
  stopNow(status = 0): never {
    try {
      this.#endpoints.remove()
      this.#pidFile?.remove()
      this.#removeFolder()
      this.#deps.writer.flushSync(200)
    } finally {
      this.#deps.exitNow(status)
    }
  }

  /** What others put there, or have removed, is theirs. */
  #removeFolder(): void {
    const { removeFolder } = this.#options.settings
    if (removeFolder === undefined) return
    try {
      rmdirSync(removeFolder)
    } catch (error) {
      this.#deps.log.debug({ err: error }, 'the folder of the sockets stays')
    }
  }

  /** Resolves when jobs and nodes are down and their events queued; the process ends right after. Never rejects. */
  #stopWork(why: string): Promise<void> {
    this.#ending ??= this.#stopDisks(why).then(() => {
      // A turn later, so that the reply to `quit` is queued behind the events.
      setImmediate(() => void this.#finish())
    })
    return this.#ending
  }

  async #stopDisks(why: string): Promise<void> {
    this.#deps.log.info({ why }, 'ending')
    setTimeout(() => this.stopNow(), END_MS)
    this.#deps.notify('STOPPING=1')
    this.#endpoints.stop()
    try {
      await atMost(this.#disks.shutdown(SHUTDOWN_MS), SHUTDOWN_MS)
    } catch (error) {
      this.#deps.log.error({ err: error }, 'disks were not closed in order')
    }
  }

  async #finish(): Promise<void> {
    await this.control.closeAll(FLUSH_MS)
    this.stopNow()
  }

  async #run(step: Step): Promise<void> {
    const make = this.#parse(step)
    try {
      await make()
    } catch (error) {
      throw named(step, error, undefined)
    }
  }

  /** Reads the value of a step; the result makes it. */
  #parse(step: Step): () => Promise<void> | void {
    const endpoints = this.#endpoints
    try {
      switch (step.kind) {
        case 'socket': {
          const spec = parseSocket(step.value)
          return () => endpoints.addSocket(spec)
        }
        case 'chardev': {
          const spec = parseChardev(step.value)
          if (spec.kind === 'stdio' && this.#options.settings.daemonize)
            throw new StartError('cannot use stdio with --daemonize')
          return () => endpoints.addChardev(spec)
        }
        case 'monitor': {
          const spec = parseMonitor(step.value)
          return () => endpoints.addMonitor(spec)
        }
        case 'images-tls':
          this.#imagesTls = parseImagesTls(step.value)
          return () => undefined
        case 'images':
        case 'images-local':
        case 'images-control': {
          const spec = parseImagesOption(step.kind, step.value, this.#imagesTls)
          return () => this.#disks.listenImages(spec)
        }
        case 'blockdev':
        case 'object':
        case 'nbd-server':
        case 'export': {
          const { kind } = step
          return () => this.#disks.define(kind, step.value)
        }
        default:
          return step.kind satisfies never
      }
    } catch (error) {
      throw named(step, error, step.malformed)
    }
  }
}

/** An error line that names the option. */
function named(step: Step, error: unknown, status: number | undefined): StartError {
  return new StartError(`${step.origin}: ${(error as Error).message}`, status, { cause: error })
}
