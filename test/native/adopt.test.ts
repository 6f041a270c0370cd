// SPDX-License-Identifier: Apache-2.0
// Descriptors of the process that an engine takes over: every kind, many at once, and none left behind.

import { spawn, spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import { installed } from '../helpers/program.js'
import { leftOver, openDescriptors, socketPair } from './descriptors.js'
import { difference, engineFor, factsOf, get, kinds, pattern, put } from './kinds.js'

const EBADF = -9
const EMFILE = -24
const ECANCELED = -125
const noFifo = installed('mkfifo') ? false : 'no mkfifo'

function fifo(folder: string): number {
  const path = join(folder, 'fifo')
  spawnSync('mkfifo', [path])
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
}

/** Status flags of an open descriptor. */
function flagsOf(fd: number): string | undefined {
  return /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1]
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    t.test('a file that was adopted is the file, whatever becomes of the descriptor', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'disk.img')
      writeFileSync(path, pattern(10_000))
      for (const direct of [0, constants.O_DIRECT]) {
        const fd = openSync(path, constants.O_RDWR | direct)
        const adopted = engine.adopt(fd)
        closeSync(fd)
        const file = await adopted
        t.ok(file > 0, `${file}`)
        t.match(await factsOf(engine, file), { kind: 'file', size: 10_000, direct: direct !== 0 })
        t.equal(difference(await get(engine, file, 1, 9999), pattern(10_000).subarray(1)), undefined)
        await put(engine, file, 4097, pattern(3, 9))
        t.same(readFileSync(path).subarray(4097, 4100), Buffer.from(pattern(3, 9)))
        await put(engine, file, 0, pattern(10_000))
        t.equal(await engine.close(file), 0)
      }
    })

    t.test('a file that can only be written directly is written', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'disk.img')
      const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_DIRECT)
      const file = await engine.adopt(fd)
      closeSync(fd)
      t.equal((await factsOf(engine, file)).direct, true)
      await put(engine, file, 0, pattern(5000))
      t.equal(difference(readFileSync(path), pattern(5000)), undefined)
    })

    t.test('sockets, pipes, devices and folders are known for what they are', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      const pipe = fifo(t.testdir())
      const { fd: socket } = await socketPair(t)
      const { fd: tcp } = await socketPair(t, 'tcp')
      const device = openSync('/dev/null', constants.O_RDWR)
      const folder = openSync(t.testdirName, constants.O_DIRECTORY)
      for (const [fd, kind] of [
        [pipe, 'fifo'],
        [socket, 'socket'],
        [tcp, 'socket'],
        [device, 'char'],
        [folder, 'directory'],
      ] as const) {
        const before = flagsOf(fd)
        t.equal((await factsOf(engine, await engine.adopt(fd))).kind, kind)
        t.equal(flagsOf(fd), before, `the flags of the ${kind} stay`)
      }
      for (const fd of [pipe, device, folder]) closeSync(fd)
    })

    t.test('many at once each get their own', async (t) => {
      const engine = engineFor(t, { aio })
      const folder = t.testdir()
      const adopted = Array.from({ length: 300 }, (_, index) => {
        const path = join(folder, `${index}`)
        writeFileSync(path, '')
        const fd = openSync(path, 'r')
        const file = engine.adopt(fd)
        closeSync(fd)
        return { path, file }
      })
      for (const { path, file } of adopted) {
        t.equal((await factsOf(engine, await file)).inode, `${statSync(path).ino}`)
      }
    })

    t.test('what is no descriptor is refused', async (t) => {
      const engine = engineFor(t, { aio })
      t.equal(await engine.adopt(9999), EBADF)
      t.equal(await engine.adopt(2 ** 32), EBADF)
      const fd = openSync('/', 'r')
      const many = await Promise.all([
        ...Array.from({ length: 40 }, () => engine.adopt(fd)),
        ...Array.from({ length: 40 }, () => engine.adopt(9999)),
      ])
      closeSync(fd)
      t.equal(many.filter((file) => file > 0).length, 40)
      t.ok(many.slice(40).every((result) => result === EBADF))
    })

    t.test('an engine that ends meanwhile leaves no descriptor', async (t) => {
      const fd = openSync(t.testdir(), 'r')
      const before = openDescriptors()
      for (let round = 0; round < 20; round++) {
        const engine = createEngine({ aio })
        const adopted = Array.from({ length: 10 * round }, () => engine.adopt(fd))
        await engine.shutdown(round % 2)
        const results = await Promise.all(adopted)
        t.ok(results.every((file) => file > 0 || file === ECANCELED))
      }
      t.same(await leftOver(before), [])
      closeSync(fd)
    })
  })

  t.test(
    `${aio}: a full table of descriptors refuses some and spoils nothing`,
    { skip: absent },
    async (t) => {
      const script = `
      import { openSync } from 'node:fs'
      import { createEngine } from ${JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)}
      const engine = createEngine({ aio: ${JSON.stringify(aio)} })
      const fd = openSync('/', 'r')
      const results = []
      for (let index = 0; index < 200; index++) results.push(await engine.adopt(fd))
      const taken = results.filter((file) => file > 0)
      await Promise.all(taken.splice(0, 30).map((file) => engine.close(file)))
      const again = await Promise.all(Array.from({ length: 20 }, () => engine.adopt(fd)))
      process.stdout.write(JSON.stringify({ codes: [...new Set(results.filter((file) => file < 0))], again }))
      process.exit(taken.length > 0 ? 0 : 1)
    `
      // What is preloaded (a sanitizer) is for the program and not for the shell.
      const child = spawn(
        'sh',
        [
          '-c',
          'ulimit -n 120; LD_PRELOAD=$2 exec "$0" --input-type=module -e "$1"',
          process.execPath,
          script,
          process.env.LD_PRELOAD ?? '',
        ],
        { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, LD_PRELOAD: '' } },
      )
      let text = ''
      child.stdout.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      t.equal(await new Promise((resolve) => child.once('close', resolve)), 0)
      const { codes, again } = JSON.parse(text) as { codes: number[]; again: number[] }
      t.same(codes, [EMFILE])
      t.ok(
        again.every((file) => file > 0),
        again.join(),
      )
    },
  )
}
