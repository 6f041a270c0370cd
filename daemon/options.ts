// SPDX-License-Identifier: Apache-2.0
// Command line and configuration file of blockferryd: text in, settings and ordered steps out. Pure.
// Two spellings live side by side: ours (mistakes: status 2, in the file 78) and the reference storage daemon's
// (--chardev, --monitor, --blockdev, --export, …; mistakes: status 1, `OPTION VALUE: MESSAGE`). Steps run in the order
// given: what a step names must have been defined before it.

import type { AioChoice } from '../native/types.js'
import type { ImagesOption } from './images-options.js'
import { isLogLevel, LOG_LEVELS, type LogLevel } from './log-levels.js'
import { StartError, Status } from './start-error.js'

export type StepKind =
  | 'socket'
  | 'chardev'
  | 'monitor'
  | 'blockdev'
  | 'object'
  | 'nbd-server'
  | 'export'
  | ImagesOption

/** One thing to make at start-up. */
export interface Step {
  readonly kind: StepKind
  /** As given; the maker parses it. */
  readonly value: string
  /** Exit status if the value makes no sense. */
  readonly malformed: number
  /** How an error line names it: '--socket /run/x'. */
  readonly origin: string
}

export interface Settings {
  readonly logLevel: LogLevel
  readonly aio: AioChoice
  readonly pidfile: string | undefined
  readonly daemonize: boolean
  /** Disks that are opened right after the start: threads for them are made in the meantime. */
  readonly expectDisks: number
  /** End when the last connection the daemon was started with has closed: the life of a child process. */
  readonly exitWithMonitor: boolean
  /** Removed at the end when nothing is left in it: its sockets were private. */
  readonly removeFolder: string | undefined
  readonly config: string | undefined
}

export interface Options {
  readonly settings: Settings
  readonly steps: readonly Step[]
}

export type CommandLine =
  | { readonly kind: 'run'; readonly given: Given }
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }

/** What one source said; the command line overrides the file. */
export interface Given {
  readonly settings: Partial<Settings>
  readonly steps: readonly Step[]
}

const STEPS: readonly StepKind[] = [
  ...(['socket', 'chardev', 'monitor', 'blockdev', 'object', 'nbd-server', 'export'] as const),
  ...(['images-tls', 'images', 'images-local', 'images-control'] as const),
]
/** Whose values may be JSON objects. */
const OBJECTS: readonly string[] = ['blockdev', 'object', 'nbd-server', 'export']
const VALUES: readonly string[] = [
  ...STEPS,
  ...['config', 'log-level', 'aio', 'expect-disks', 'pidfile', 'remove-folder'],
]
const FLAGS: readonly string[] = ['daemonize', 'exit-with-monitor', 'help', 'version']
/** Whose values may be numbers. */
const NUMBERS: readonly string[] = ['expect-disks']
const AIO: readonly AioChoice[] = ['auto', 'threads', 'io_uring']
const DISKS: readonly string[] = ['0', '1', '2']

export const DEFAULTS: Settings = {
  logLevel: 'warn',
  aio: 'auto',
  expectDisks: 1,
  pidfile: undefined,
  daemonize: false,
  exitWithMonitor: false,
  removeFolder: undefined,
  config: undefined,
}

/** Reads the arguments after the program's name. Throws StartError. */
export function parseArguments(args: readonly string[]): CommandLine {
  const given = new Collector('--', Status.usage)
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] as string
    if (arg === '-h' || arg === '--help') return { kind: 'help' }
    if (arg === '-V' || arg === '--version') return { kind: 'version' }
    const [, name, value] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? []
    if (name === undefined) throw new StartError(`unexpected argument '${arg}'`, Status.usage)
    if (FLAGS.includes(name)) {
      if (value !== undefined) throw new StartError(`option '--${name}' takes no value`, Status.usage)
      given.flag(name)
    } else if (value !== undefined) given.value(name, value)
    else {
      given.known(name)
      const next = args[++index]
      if (next === undefined) throw new StartError(`option '--${name}' needs a value`, Status.usage)
      given.value(name, next)
    }
  }
  return { kind: 'run', given }
}

/**
 * Reads a configuration file: a JSON object whose keys are the long options. A list repeats its option, objects stand for
 * definitions such as that of `--blockdev`.
 * @param file  its name, for error lines
 */
export function parseConfig(text: string, file: string): Given {
  const fail = (message: string) => new StartError(`${file}: ${message}`, Status.config)
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch (error) {
    throw fail((error as Error).message)
  }
  if (typeof root !== 'object' || root === null || Array.isArray(root)) throw fail('expected a JSON object')
  const given = new Collector('', Status.config, `${file}: `)
  for (const [name, value] of Object.entries(root)) {
    if (name === 'config') throw fail(`'config' cannot be given in a configuration file`)
    for (const one of Array.isArray(value) ? value : [value]) {
      if (FLAGS.includes(name) && typeof one === 'boolean') {
        if (one) given.flag(name)
      } else if (typeof one === 'string') given.value(name, one)
      else if (NUMBERS.includes(name) && typeof one === 'number') given.value(name, String(one))
      else if (OBJECTS.includes(name) && typeof one === 'object' && one !== null)
        given.value(name, JSON.stringify(one))
      else {
        given.known(name)
        throw fail(`'${name}' cannot be ${JSON.stringify(one)}`)
      }
    }
  }
  return given
}

/** Defaults, then the file, then the command line; the file's steps come first. */
export function merge(file: Given | undefined, line: Given): Options {
  return {
    settings: { ...DEFAULTS, ...file?.settings, ...line.settings },
    steps: [...(file?.steps ?? []), ...line.steps],
  }
}

class Collector implements Given {
  readonly settings: { -readonly [K in keyof Settings]?: Settings[K] } = {}
  readonly steps: Step[] = []
  readonly #prefix: string
  readonly #status: number
  readonly #context: string

  /** @param prefix  before option names in error lines; @param context  before the whole line */
  constructor(prefix: string, status: number, context = '') {
    this.#prefix = prefix
    this.#status = status
    this.#context = context
  }

  known(name: string): void {
    if (!VALUES.includes(name) && !FLAGS.includes(name))
      throw this.#fail(`unknown option '${this.#prefix}${name}'`)
  }

  flag(name: string): void {
    if (name === 'daemonize') this.settings.daemonize = true
    else if (name === 'exit-with-monitor') this.settings.exitWithMonitor = true
    else throw this.#fail(`unknown option '${this.#prefix}${name}'`)
  }

  value(name: string, value: string): void {
    this.known(name)
    const kind = STEPS.find((step) => step === name)
    if (kind !== undefined) this.steps.push(this.#step(kind, value))
    else if (name === 'log-level') {
      if (!isLogLevel(value)) throw this.#oneOf(name, value, LOG_LEVELS)
      this.settings.logLevel = value
    } else if (name === 'aio') {
      const aio = AIO.find((one) => one === value)
      if (aio === undefined) throw this.#oneOf(name, value, AIO)
      this.settings.aio = aio
    } else if (name === 'expect-disks') {
      if (!DISKS.includes(value)) throw this.#oneOf(name, value, DISKS)
      this.settings.expectDisks = Number(value)
    } else if (name === 'pidfile') this.settings.pidfile = value
    else if (name === 'remove-folder') this.settings.removeFolder = value
    else if (name === 'config') this.settings.config = value
    else throw this.#fail(`option '${this.#prefix}${name}' takes no value`)
  }

  #step(kind: StepKind, value: string): Step {
    const ours = kind === 'socket' || kind.startsWith('images') || this.#status === Status.config
    const malformed = ours ? this.#status : Status.failed
    return { kind, value, malformed, origin: `${this.#context}${this.#prefix}${kind} ${value}` }
  }

  #fail(message: string): StartError {
    return new StartError(this.#context + message, this.#status)
  }

  #oneOf(name: string, value: string, allowed: readonly string[]): StartError {
    return this.#fail(`${this.#prefix}${name}: '${value}' is none of ${allowed.join(', ')}`)
  }
}

export const HELP = `Usage: blockferryd [OPTION]...
Mirrors VM disks, steered over a socket that speaks QMP and JSON-RPC 2.0.

  --socket PATH[,mode=0600][,group=NAME]   listen on a Unix socket; may be repeated
  --images http[s]://HOST:PORT             serve images over HTTP
  --images-tls cert=F,key=F[,client-ca=F]  credentials for https, before it; read again on SIGHUP
  --images-local PATH                      the same on a Unix socket
  --images-control PATH[,remove-timeout=S] Unix socket for tickets, which say who may do what with which image
  --config FILE                            JSON object with the same keys as these options
  --log-level LEVEL                        ${LOG_LEVELS.join(', ')} (default ${DEFAULTS.logLevel})
  --aio KIND                               ${AIO.join(', ')} (default ${DEFAULTS.aio})
  --expect-disks N                         threads made at the start, for the first disks: ${DISKS.join(', ')} (default ${DEFAULTS.expectDisks})
  --pidfile FILE                           write the process number there when ready
  --daemonize                              return when ready, go on in the background
  --exit-with-monitor                      end when the last connection given by --chardev has closed
  --remove-folder DIR                      remove that folder at the end, if nothing is left in it
  --help, --version

As qemu-storage-daemon spells it, in the order of definition:
  --chardev socket,id=ID,path=PATH[,server=on][,wait=off]
  --chardev socket,id=ID,host=HOST,port=PORT[,server=on][,wait=off]
  --chardev socket,id=ID,fd=N[,server=on]
  --chardev stdio,id=ID
  --monitor [chardev=]ID[,mode=control]
  --blockdev [driver=]DRIVER,node-name=NAME[,...]
  --object [qom-type=]TYPE,id=ID[,...]
  --nbd-server addr.type=unix,addr.path=PATH[,tls-creds=ID][,max-connections=N]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,...]
  --export [type=]nbd,id=ID,node-name=NAME[,name=NAME][,writable=on][,...]

Sockets passed by a service manager (LISTEN_FDS) are served too.
`
