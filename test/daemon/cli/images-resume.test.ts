// SPDX-License-Identifier: Apache-2.0
// Uploads and downloads that were cut off: killed at any moment, they go on; what has changed meanwhile is noticed.

import { once } from 'node:events'
import { closeSync, existsSync, openSync, readFileSync, truncateSync, utimesSync, writeSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { difference, empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { pace } from '../../helpers/waiting.js'
import { random } from '../../native/kinds.js'
import { type Run, run } from './run.js'

/** What is done is recorded every 64 MiB. */
const SIZE = 200 * MiB
const LIMIT = 150 * MiB

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

/** Between client and server; counts bytes, and lets no more through than is said. */
class Gate {
  passed = 0
  #limit = Number.POSITIVE_INFINITY
  #cut = false
  #reached: () => void = () => undefined
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(server: Server) {
    this.#server = server
    server.on('connection', (client) => {
      const target = connect(Number(new URL(daemon.url).port), '127.0.0.1')
      for (const [from, to] of [
        [client, target],
        [target, client],
      ] as const) {
        this.#sockets.add(from)
        from.on('error', () => to.destroy())
        from.on('close', () => to.destroy())
        from.on('data', (bytes: Buffer) => this.#pass(from, to, bytes))
      }
    })
  }

  static async open(): Promise<Gate> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Gate(server)
  }

  url(path: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${path}`
  }

  /** From now on. @param cut  connections end there; else they stall */
  limit(bytes: number, cut = false): void {
    this.passed = 0
    this.#limit = bytes
    this.#cut = cut
  }

  /** Resolves when as much was let through as may be. */
  reached(bytes: number): Promise<void> {
    this.limit(bytes)
    return new Promise((resolve) => {
      this.#reached = resolve
    })
  }

  #pass(from: Socket, to: Socket, bytes: Buffer): void {
    this.passed += bytes.length
    if (this.passed > this.#limit) {
      this.#reached()
      if (this.#cut) from.destroy()
      else from.pause()
    } else if (!to.write(bytes)) {
      from.pause()
      to.once('drain', () => from.resume())
    }
  }

  [Symbol.dispose](): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}

/** Bytes that a record says are done. */
function recorded(path: string): number {
  if (!existsSync(path)) return 0
  const lines = readFileSync(path, 'utf8').split('\n').slice(1, -1)
  return lines.reduce((sum, line) => sum + Number(line.split(' ')[1]), 0)
}

/** Runs a command until its record says that something is done, and kills it. @returns bytes that are done */
async function killed(args: readonly string[], record: string): Promise<number> {
  const ended = run(args, {
    onStart: (child) =>
      void (async () => {
        while (recorded(record) === 0 && child.exitCode === null) await pace(10)
        child.kill('SIGKILL')
      })(),
  })
  const { status, stderr } = await ended
  if (status !== null) throw new Error(`ended with ${status}: ${stderr}`)
  return recorded(record)
}

/** Runs a command and kills it after random numbers of bytes, until it ends before. @returns how it ended */
async function stubborn(args: readonly string[], gate: Gate, below: (limit: number) => number): Promise<Run> {
  for (let runs = 0; ; runs++) {
    const reached = gate.reached(runs < 8 ? MiB * (1 + below(150)) : Number.POSITIVE_INFINITY)
    const ended = await run(args, { onStart: (child) => void reached.then(() => child.kill('SIGKILL')) })
    if (ended.status !== null) return ended
  }
}

/** Writes over some bytes in the middle of a MiB. */
function change(path: string, offset: number): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, Buffer.alloc(100, 0xee), 0, 100, offset + 1000)
  closeSync(fd)
}

const ok: Partial<Run> = { status: 0 }
let tickets = 0

async function ticket(file: string, ops: readonly string[]): Promise<string> {
  const id = `t${tickets++}`
  await daemon.ticket(id, file, SIZE, { ops })
  return `/images/${id}`
}

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
t.comment(`seed ${seed}`)
const below = random(seed)

t.test('a download', async (t) => {
  using gate = await Gate.open()
  /** Killed half-way. */
  const begun = async (name: string) => {
    fill(scratch.file('source'), SIZE - 20 * MiB)
    truncateSync(scratch.file('source'), SIZE)
    const args = ['download', gate.url(await ticket('source', ['read'])), scratch.file(name)]
    gate.limit(LIMIT)
    const done = await killed(args, scratch.file(`${name}.part.done`))
    gate.limit(Number.POSITIVE_INFINITY)
    t.ok(done >= 64 * MiB, 'some of it is recorded')
    t.notOk(existsSync(scratch.file(name)))
    return { args, done }
  }
  const nothingLeft = (name: string) =>
    t.notOk(existsSync(scratch.file(`${name}.part`)) || existsSync(scratch.file(`${name}.part.done`)))

  await t.test('that was killed goes on', async (t) => {
    const { args, done } = await begun('a')
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('a')), undefined)
    t.ok(gate.passed < SIZE - done, 'what was done is not fetched again')
    nothingLeft('a')
  })

  await t.test('notices that the image has changed', async (t) => {
    const { args } = await begun('b')
    for (let at = 0; at < 180; at += 8) change(scratch.file('source'), at * MiB)
    t.match(await run(args), { status: 1, stderr: /\nblockferry: the image has changed since[^\n]+\n$/ })
    t.notOk(existsSync(scratch.file('b')))
    nothingLeft('b')
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('b')), undefined)
  })

  await t.test('of an image with other zeroes begins anew', async (t) => {
    const { args } = await begun('c')
    change(scratch.file('source'), SIZE - 8 * MiB)
    change(scratch.file('source'), 0)
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('c')), undefined)
    t.ok(gate.passed > SIZE - 20 * MiB, 'all of it is fetched')
  })

  await t.test('whose server was lost goes on', async (t) => {
    fill(scratch.file('source'), SIZE)
    const args = ['download', gate.url(await ticket('source', ['read'])), scratch.file('d')]
    gate.limit(LIMIT, true)
    const { status } = await run(args)
    t.not(status, 0)
    const done = recorded(scratch.file('d.part.done'))
    t.ok(done >= 64 * MiB)
    gate.limit(Number.POSITIVE_INFINITY)
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('d')), undefined)
    t.ok(gate.passed < SIZE - done + MiB)
  })

  await t.test('that is killed again and again gets there', async (t) => {
    fill(scratch.file('source'), SIZE, 5)
    const args = ['download', gate.url(await ticket('source', ['read'])), scratch.file('f')]
    t.match(await stubborn(args, gate, below), ok)
    t.equal(difference(scratch.file('source'), scratch.file('f')), undefined)
    nothingLeft('f')
    gate.limit(Number.POSITIVE_INFINITY)
  })

  await t.test('of which nothing is done leaves nothing', async (t) => {
    fill(scratch.file('source'), SIZE)
    const args = ['download', gate.url(await ticket('source', ['read'])), scratch.file('e')]
    gate.limit(MiB, true)
    t.not((await run(args)).status, 0)
    nothingLeft('e')
  })
})

t.test('an upload', async (t) => {
  using gate = await Gate.open()
  const record = scratch.file('record')
  /** Killed half-way. */
  const begun = async () => {
    fill(scratch.file('source'), SIZE - 20 * MiB)
    truncateSync(scratch.file('source'), SIZE)
    empty(scratch.file('target'), SIZE)
    const url = gate.url(await ticket('target', ['write']))
    const args = ['upload', scratch.file('source'), url, '--resume', record]
    gate.limit(LIMIT)
    const done = await killed(args, record)
    gate.limit(Number.POSITIVE_INFINITY)
    t.ok(done >= 64 * MiB, 'some of it is recorded')
    return { args, done }
  }

  await t.test('that was killed goes on', async (t) => {
    const { args, done } = await begun()
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
    t.ok(gate.passed < SIZE - done + MiB, 'what was done is not sent again')
    t.notOk(existsSync(record))
  })

  await t.test('of a file that has changed begins anew', async (t) => {
    const { args } = await begun()
    for (let at = 0; at < 180; at += 8) change(scratch.file('source'), at * MiB)
    // Whoever changes a file may set its time back.
    utimesSync(scratch.file('source'), 1, 1)
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
    t.ok(gate.passed > SIZE - 20 * MiB, 'all of it is sent')
  })

  await t.test('notices that the target has changed', async (t) => {
    const { args } = await begun()
    for (let at = 0; at < 180; at += 8) change(scratch.file('target'), at * MiB)
    t.match(await run(args), { status: 1, stderr: /\nblockferry: the image there has changed[^\n]+\n$/ })
    t.match(await run(args), ok)
    t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
    t.notOk(existsSync(record))
  })

  await t.test('whose server was lost goes on', async (t) => {
    empty(scratch.file('target'), SIZE)
    const args = ['upload', scratch.file('source'), gate.url(await ticket('target', ['write']))]
    gate.limit(LIMIT, true)
    t.not((await run([...args, '--resume', record])).status, 0)
    t.ok(recorded(record) >= 64 * MiB)
    gate.limit(Number.POSITIVE_INFINITY)
    t.match(await run([...args, '--resume', record]), ok)
    t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
  })

  await t.test('that is killed again and again gets there', async (t) => {
    fill(scratch.file('source'), SIZE, 7)
    empty(scratch.file('target'), SIZE)
    const args = ['upload', scratch.file('source'), gate.url(await ticket('target', ['write']))]
    t.match(await stubborn([...args, '--resume', record], gate, below), ok)
    t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
    t.notOk(existsSync(record))
    gate.limit(Number.POSITIVE_INFINITY)
  })

  await t.test('with a record is refused where a change could not be noticed', async (t) => {
    const args = ['upload', scratch.file('source'), gate.url('/images/x'), '--resume', record]
    t.match(await run([...args, '--force-share']), { status: 2, stderr: /--resume needs a file/ })
    t.notOk(existsSync(record))
  })
})
