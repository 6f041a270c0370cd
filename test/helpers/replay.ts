// SPDX-License-Identifier: Apache-2.0
// Plays a recorded control session against a program and says where it answers differently.
// Used by test/live/transcripts.test.ts. What counts as a difference is decided in tolerance.ts.
//
// Order that is checked: replies among themselves; events of one job among themselves; and where the protocol promises
// that events come before a reply (start, finalize, dismiss of a job, quit), that they do. Elsewhere, and for errors
// that a job meets while it starts, a reply may stand two events earlier or later.

import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LineSocket } from './line-socket.js'
import { type Program, type Running, start } from './program.js'
import {
  canonical,
  type Heard,
  isJobError,
  isOurs,
  isReply,
  type Json,
  Names,
  readLine,
  same,
  subject,
  withoutChance,
  withoutFlicker,
} from './tolerance.js'
import type { Step, Transcript } from './transcript.js'
import { pace } from './waiting.js'

export interface ReplayOptions {
  readonly program: Program
  /** Longest wait for what a step must bring. */
  readonly timeoutMs?: number
}

/** A difference between the recording and the program. */
export class Difference extends Error {}

/** Both sides of one connection so far. */
interface Stream {
  readonly socket: LineSocket
  readonly expected: Heard[]
  readonly got: Heard[]
  taken: number
  /** Lines taken before the last send. */
  sentAt: number
}

const LATE = 2
/** Silence after raw bytes is only there to separate the pieces; other silence lets a job come to rest. */
const PIECE_MS = 40
const REST_MS = 500
const STRICT =
  /"(execute|exec-oob)": ?"(blockdev-mirror|drive-mirror|job-finalize|block-job-finalize|job-dismiss|block-job-dismiss|quit)"/

/** @throws Difference naming the line of the transcript, what was expected and what came. */
export async function replay(transcript: Transcript, options: ReplayOptions): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'replay-'))
  const player = new Player(directory, options)
  try {
    for (const [index, step] of transcript.steps.entries()) await player.play(step, index)
    await player.finish(transcript.steps.length)
  } finally {
    await player.stop()
    await endServers(directory)
    await rm(directory, { recursive: true, force: true })
  }
}

/** Ends what a recording's shell commands left running: servers that wrote a `.pid` file. */
async function endServers(directory: string): Promise<void> {
  for (const name of (await readdir(directory)).filter((each) => each.endsWith('.pid'))) {
    const pid = Number(await readFile(join(directory, name), 'utf8'))
    if (!Number.isInteger(pid) || pid <= 1) continue
    for (const signal of ['SIGCONT', 'SIGTERM'] as const) {
      try {
        process.kill(pid, signal)
      } catch {
        break
      }
    }
  }
}

/** The first difference, or undefined when there is none. Rejects with whatever else goes wrong. */
export async function differences(
  transcript: Transcript,
  options: ReplayOptions,
): Promise<Difference | undefined> {
  try {
    await replay(transcript, options)
    return undefined
  } catch (error) {
    if (error instanceof Difference) return error
    throw error
  }
}

class Player {
  readonly #directory: string
  readonly #options: ReplayOptions
  readonly #timeoutMs: number
  readonly #streams = new Map<string, Stream>()
  readonly #expectedNames = new Names()
  readonly #gotNames = new Names()
  readonly #strict = new Set<number>()
  #current: Stream | undefined
  #running: Running | undefined
  /** Descriptors that go along with what is sent next. */
  #passed: number[] = []
  #afterBytes = false

  constructor(directory: string, options: ReplayOptions) {
    this.#directory = directory
    this.#options = options
    this.#timeoutMs = options.timeoutMs ?? 20_000
  }

  async play(step: Step, index: number): Promise<void> {
    const { action } = step
    switch (action.kind) {
      case 'run':
        await this.#run(action.command)
        break
      case 'sh':
        this.#shell(action.command, step)
        break
      case 'open':
        await this.#open(action.name, action.path)
        break
      case 'use':
        this.#current = this.#stream(action.name)
        break
      case 'close':
        this.#stream(action.name).socket.destroy()
        this.#streams.delete(action.name)
        break
      case 'fd':
        this.#passed.push(openSync(this.#here(action.path), action.flags, 0o600))
        break
      case 'request':
        this.#send(Buffer.from(`${this.#here(action.text)}\n`))
        this.#afterBytes = false
        if (STRICT.test(action.text)) this.#strict.add(index)
        break
      case 'bytes':
        this.#send(Buffer.from(this.#here(action.bytes.toString('latin1')), 'latin1'))
        break
      case 'wait':
      case 'idle':
      case 'eof':
      case 'exit':
        break
      default:
        action satisfies never
    }
    await this.#listen(step, index)
    await this.#observe(step)
  }

  /** Nothing may have come that the recording does not have: a last request shows that all was heard. */
  async finish(index: number): Promise<void> {
    for (const stream of this.#streams.values()) {
      if (stream.socket.closed) continue
      stream.socket.send('{"execute":"query-version","id":"end of replay"}\n')
      const last = (): boolean => stream.socket.lines.some((line) => line.includes('"end of replay"'))
      if (!(await stream.socket.until(last, this.#timeoutMs))) throw new Difference('no answer at the end')
      this.#take(stream, index)
      stream.got.splice(
        stream.got.findIndex((heard) => canonical(heard.value).includes('"end of replay"')),
        1,
      )
      this.#compare(stream, 'end', true)
    }
  }

  async stop(): Promise<void> {
    for (const stream of this.#streams.values()) stream.socket.destroy()
    await this.#running?.stop()
  }

  async #run(command: string): Promise<void> {
    const [, ...args] = this.#here(command).split(' ')
    this.#running = start([...this.#options.program.command(this.#directory), ...args])
    await this.#open('main', '$DIR/qmp.sock')
  }

  async #open(name: string, path: string): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        const socket = await LineSocket.connect(this.#here(path))
        this.#current = { socket, expected: [], got: [], taken: 0, sentAt: 0 }
        this.#streams.set(name, this.#current)
        return
      } catch (cause) {
        const left = this.#running?.child.exitCode
        if (tries > 400 || typeof left === 'number') {
          throw new Error(`cannot connect to ${path}: ${this.#running?.stderr() ?? ''}`, { cause })
        }
        await pace(25)
      }
    }
  }

  #shell(command: string, step: Step): void {
    const { status, stderr } = spawnSync('sh', ['-c', this.#here(command)], { encoding: 'utf8' })
    if (status === 0) return
    const what = `line ${step.line}: ${command}: status ${status}: ${stderr}`
    throw this.#running ? new Difference(what) : new Error(what)
  }

  #send(data: Buffer): void {
    const stream = this.#connection()
    this.#take(stream, -1)
    stream.sentAt = stream.taken
    stream.socket.send(data, this.#passed)
    for (const fd of this.#passed.splice(0)) closeSync(fd)
  }

  async #listen(step: Step, index: number): Promise<void> {
    const stream = this.#current
    if (!stream) return
    for (const line of step.expected) {
      stream.expected.push({ step: index, value: readLine(line, this.#expectedNames, this.#directory) })
    }
    const enough = (): boolean => {
      this.#take(stream, index)
      return count(stream.expected, stream.got) >= stream.expected.length
    }
    const came = await stream.socket.until(enough, this.#timeoutMs)
    this.#compare(stream, `line ${step.line}`)
    if (!came) throw new Difference(`line ${step.line}: not everything came: ${missing(stream)}`)
  }

  async #observe(step: Step): Promise<void> {
    const { action } = step
    const stream = this.#current
    if (!stream) return
    const { socket } = stream
    if (action.kind === 'wait') {
      const seen = (): boolean =>
        socket.lines.slice(stream.sentAt).some((line) => action.pattern.test(spaced(line)))
      if (!(await socket.until(seen, this.#timeoutMs))) {
        throw new Difference(`line ${step.line}: nothing matched ${action.pattern}`)
      }
    } else if (action.kind === 'idle')
      await pace(Math.min(this.#afterBytes ? PIECE_MS : REST_MS, action.seconds * 1000))
    else if (action.kind === 'eof') {
      const closed = await socket.until(() => socket.closed, action.closed ? this.#timeoutMs : REST_MS)
      if (closed !== action.closed) throw new Difference(`line ${step.line}: connection closed: ${closed}`)
    } else if (action.kind === 'exit') {
      const status = await this.#running?.ended(this.#timeoutMs)
      if (status !== action.status) throw new Difference(`line ${step.line}: exit status ${status}`)
    }
  }

  #take(stream: Stream, step: number): void {
    for (const line of stream.socket.lines.slice(stream.taken)) {
      const value = readLine(line, this.#gotNames, this.#directory)
      if (!isOurs(value)) stream.got.push({ step, value })
    }
    stream.taken = stream.socket.lines.length
  }

  /** What came before its time is looked at when its time comes; at the end nothing may be left over. */
  #compare(stream: Stream, where: string, all = false): void {
    const expected = split(stream.expected)
    const got = split(stream.got)
    compareLists(expected.replies, got.replies, `${where}: reply`, all)
    for (const [name, events] of expected.events) {
      compareLists(
        withoutFlicker(events),
        withoutFlicker(got.events.get(name) ?? []),
        `${where}: ${name}`,
        all,
      )
    }
    for (const [name, events] of got.events) {
      const extra = !all || expected.events.has(name) ? [] : withoutFlicker(events)
      if (extra.length > 0) throw new Difference(`${where}: unexpected ${canonical(extra[0]?.value ?? null)}`)
    }
    this.#compareOrder(stream, where)
  }

  /** How many events of each job stand before each reply. */
  #compareOrder(stream: Stream, where: string): void {
    const before = eventsBeforeReplies(stream.got)
    for (const [at, reply] of eventsBeforeReplies(stream.expected).entries()) {
      const other = before[at]
      if (!other) return
      for (const [name, places] of reply.events) {
        const strict = this.#strict.has(reply.step)
        const missing = places.count - (other.events.get(name)?.count ?? 0)
        if (missing > (strict ? places.early : LATE)) {
          throw new Difference(`${where}: reply ${at + 1} came before ${missing} event(s) of ${name}`)
        }
      }
    }
  }

  #stream(name: string): Stream {
    const stream = this.#streams.get(name)
    if (!stream) throw new Error(`no connection ${name}`)
    return stream
  }

  #connection(): Stream {
    if (!this.#current) throw new Error('no connection yet')
    return this.#current
  }

  #here(text: string): string {
    return text.replaceAll('$DIR', this.#directory)
  }
}

function split(heard: readonly Heard[]): { replies: Heard[]; events: Map<string, Heard[]> } {
  const replies: Heard[] = []
  const events = new Map<string, Heard[]>()
  for (const each of heard) {
    if (isReply(each.value)) replies.push(each)
    else events.set(subject(each.value), [...(events.get(subject(each.value)) ?? []), each])
  }
  return { replies, events }
}

/** How many of `wanted` have a counterpart in `got`, by kind: replies, and events of each job. */
function count(wanted: readonly Heard[], got: readonly Heard[]): number {
  const want = split(wanted)
  const have = split(got)
  let found = Math.min(want.replies.length, have.replies.length)
  for (const [name, events] of want.events) {
    const steady = withoutFlicker(events).length
    const there = withoutFlicker(have.events.get(name) ?? []).length
    found += events.length - steady + Math.min(steady, there)
  }
  return found
}

function missing(stream: Stream): string {
  const want = split(stream.expected)
  const have = split(stream.got)
  const lists = [[want.replies, have.replies] as const]
  for (const [name, events] of want.events) {
    lists.push([withoutFlicker(events), withoutFlicker(have.events.get(name) ?? [])])
  }
  return lists
    .flatMap(([wanted, got]) => wanted.slice(got.length))
    .map((each) => canonical(each.value))
    .join('\n')
}

function compareLists(expected: readonly Heard[], got: readonly Heard[], what: string, all: boolean): void {
  for (const [at, each] of got.entries()) {
    const wanted = expected[at]
    if (!wanted && all) throw new Difference(`${what}: one too many: ${canonical(each.value)}`)
    if (!wanted) return
    const [one, other] = [withoutChance(wanted.value), withoutChance(each.value)]
    if (!same(one, other)) {
      throw new Difference(`${what}\n  expected ${canonical(one)}\n  got      ${canonical(other)}`)
    }
  }
}

interface ReplyPlace {
  readonly step: number
  /** By job: events before the reply, and how many of them happened to be so early. */
  readonly events: ReadonlyMap<string, { readonly count: number; readonly early: number }>
}

function eventsBeforeReplies(heard: readonly Heard[]): ReplyPlace[] {
  const places: ReplyPlace[] = []
  const events = new Map<string, Heard[]>()
  for (const each of heard) {
    if (isReply(each.value)) {
      const counts = [...events].map(([name, list]) => {
        const steady = withoutFlicker(list)
        const error = steady.findIndex((event) => event.step === each.step && isJobError(event.value))
        return [name, { count: steady.length, early: error < 0 ? 0 : steady.length - error }] as const
      })
      places.push({ step: each.step, events: new Map(counts) })
    } else events.set(subject(each.value), [...(events.get(subject(each.value)) ?? []), each])
  }
  return places
}

/** The recordings' spacing, which patterns may rely on. */
function spaced(line: string): Json & string {
  try {
    return JSON.stringify(JSON.parse(line), undefined, 1).replace(/\n\s*/g, ' ')
  } catch {
    return line
  }
}
