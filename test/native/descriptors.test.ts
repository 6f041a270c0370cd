// SPDX-License-Identifier: Apache-2.0
// Descriptors over a local socket: they come before their bytes, in order, none is lost or left open; and what can be
// done with them without waiting.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import t from 'tap'
import { accessOf, closeDescriptor, duplicate, isLocalStream, referenceTo } from '../../native/descriptors.js'
import type { LocalSocket } from '../../native/local-socket.js'
import { localPair, netPair } from '../helpers/local-connection.js'
import { shortFolder } from '../helpers/short-folder.js'
import { pace } from '../helpers/waiting.js'

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)

/** How many of this process's descriptors are of the file. */
function openOf(path: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(path)
    } catch {
      return false
    }
  }).length
}

/** The closing thread gives no event. */
async function closed(path: string, left = 0): Promise<number> {
  for (let tries = 0; openOf(path) > left && tries < 500; tries++) await pace(10)
  return openOf(path)
}

/** What arrives, in order: texts, and of descriptors the names of their files' first letters with the position. */
function heard(socket: LocalSocket): string[] {
  const list: string[] = []
  socket.on('descriptors', (passed: number[], position: number) => {
    const letters = passed.map((fd) => {
      const letter = Buffer.alloc(1)
      readSync(fd, letter, 0, 1, 0)
      closeSync(fd)
      return letter.toString()
    })
    list.push(`${letters.join('')}@${position}`)
  })
  socket.on('data', (bytes: Buffer) => list.push(bytes.toString()))
  return list
}

t.test('descriptors are told of before the bytes they came with', async (t) => {
  const folder = t.testdir({ a: 'a', b: 'b', c: 'c' })
  const [one, other] = await localPair(t)
  const [a, b, c] = ['a', 'b', 'c'].map((name) => openSync(join(folder, name), 'r')) as [
    number,
    number,
    number,
  ]
  const list = heard(other)
  one.write('plain;')
  t.equal(one.sendPassing(Buffer.from('first;'), [a]), 6)
  t.equal(one.sendPassing(Buffer.from('more;'), [b, c]), 5)
  one.end('end')
  await once(other, 'end')
  // The kernel may join bytes that came before to those that carry descriptors, never those that follow.
  t.match(list.join(' '), /^(plain; a@6 first;|a@0 plain;first;) bc@12 more; end$/)
  for (const fd of [a, b, c]) closeSync(fd)
  t.equal(openOf(folder), 0)
})

t.test('descriptors that nobody listens for are closed', async (t) => {
  const folder = t.testdir({ a: 'a' })
  const [one, other] = await localPair(t)
  const fd = openSync(join(folder, 'a'), 'r')
  for (let round = 0; round < 20; round++) t.equal(one.sendPassing(Buffer.from('x'), Array(253).fill(fd)), 1)
  other.resume()
  one.end()
  await once(other, 'end')
  closeSync(fd)
  t.equal(await closed(folder), 0)
})

t.test('no more than the kernel lets pass are sent', async (t) => {
  const folder = t.testdir({ a: 'a' })
  const [one] = await localPair(t)
  const fd = openSync(join(folder, 'a'), 'r')
  t.equal(one.sendPassing(Buffer.from('x'), Array(254).fill(fd)), -22)
  t.equal(one.sendPassing(Buffer.from('x'), [1_000_000]), -9)
  closeSync(fd)
})

t.test('descriptors in a socket that is closed unread are closed with it', async (t) => {
  const folder = t.testdir({ a: 'a' })
  const [one, other] = await localPair(t)
  const fd = openSync(join(folder, 'a'), 'r')
  for (let round = 0; round < 20; round++) one.sendPassing(Buffer.from('x'), [fd, fd])
  closeSync(fd)
  other.destroy()
  t.equal(await closed(folder), 0)
  t.equal(one.sendPassing(Buffer.from('x'), [0]), -32)
})

t.test(`with random messages each descriptor is at its byte (seed ${seed})`, async (t) => {
  const folder = t.testdir({ a: 'a', b: 'b', c: 'c' })
  const files = new Map(['a', 'b', 'c'].map((name) => [name, openSync(join(folder, name), 'r')]))
  const messages = fc.array(
    fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1000, max: 9000 })),
      passed: fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 4 }),
    }),
    { minLength: 1, maxLength: 15 },
  )
  await fc.assert(
    fc.asyncProperty(messages, async (list) => {
      const [one, other] = await localPair(t)
      const got: string[] = []
      let bytes = 0
      other.on('descriptors', (passed: number[], position: number) => {
        if (position !== bytes) throw new Error(`at ${position}, after ${bytes} bytes`)
        for (const fd of passed) {
          const letter = Buffer.alloc(1)
          readSync(fd, letter, 0, 1, 0)
          closeSync(fd)
          got.push(letter.toString())
        }
      })
      other.on('data', (part: Buffer) => {
        bytes += part.length
      })
      let sent = 0
      for (const { length, passed } of list) {
        const numbers = passed.map((name) => files.get(name) as number)
        if (one.sendPassing(Buffer.alloc(length), numbers) !== length) throw new Error('not all was sent')
        sent += length
      }
      one.end()
      await once(other, 'end')
      const wanted = list.flatMap(({ passed }) => passed)
      if (got.join() !== wanted.join() || bytes !== sent) throw new Error(`${got.join()} of ${wanted.join()}`)
      one.destroy()
      other.destroy()
    }),
    { seed, numRuns: 80 },
  )
  for (const fd of files.values()) closeSync(fd)
  t.equal(openOf(folder), 0)
})

t.test('where no numbers are left descriptors are lost, and nothing else', async (t) => {
  const script = `
    import { once } from 'node:events'
    import { closeSync, openSync, readdirSync } from 'node:fs'
    import { connect, createServer } from 'node:net'
    import { LocalSocket } from ${JSON.stringify(new URL('../../native/local-socket.js', import.meta.url).href)}
    const path = process.argv[1]
    const server = createServer({ pauseOnConnect: true })
    await new Promise((resolve) => server.listen(path, resolve))
    const socket = connect(path)
    socket.pause()
    const [[accepted]] = await Promise.all([once(server, 'connection'), once(socket, 'connect')])
    const [one, other] = [LocalSocket.takeOver(socket), LocalSocket.takeOver(accepted)]
    server.close()
    const count = () => readdirSync('/proc/self/fd').length
    const before = count()
    const filler = []
    try {
      for (;;) filler.push(openSync('/dev/null'))
    } catch {}
    for (const fd of filler.splice(0, 3)) closeSync(fd)
    one.sendPassing(Buffer.from('x'), Array(20).fill(1))
    one.end('rest')
    let passed = []
    let text = ''
    other.on('descriptors', (list) => (passed = list))
    other.on('data', (part) => (text += part))
    await once(other, 'end')
    for (const fd of [...passed, ...filler]) closeSync(fd)
    console.log(passed.length, text, count() <= before || [before, count()])
    process.exit()
  `
  // A sanitizer's library is for the program only: shells do not start with it.
  const env = { ...process.env, LD_PRELOAD: '', PRELOAD: process.env.LD_PRELOAD ?? '' }
  const limited = 'ulimit -n 64; LD_PRELOAD=$PRELOAD exec "$0" --input-type=module -e "$1" "$2"'
  const path = `${shortFolder(t)}/s`
  const { stdout, stderr } = spawnSync('sh', ['-c', limited, process.execPath, script, path], {
    encoding: 'utf8',
    env,
  })
  t.match(stdout, /^[123] xrest true\n$/, stderr)
})

t.test('a worker that is ended with open sockets leaves no descriptor', async (t) => {
  const script = `
    import { LocalSocket } from ${JSON.stringify(new URL('../../native/local-socket.js', import.meta.url).href)}
    import { parentPort, workerData } from 'node:worker_threads'
    const socket = new LocalSocket(workerData)
    socket.on('descriptors', () => {})
    socket.on('data', () => {})
    socket.write(Buffer.alloc(4 << 20))
    parentPort.postMessage('started')
  `
  const module = new URL(`data:text/javascript,${encodeURIComponent(script)}`)
  const count = () => readdirSync('/proc/self/fd').length
  const round = async () => {
    const [one, other] = await netPair(t)
    const fd = duplicate((one as unknown as { _handle: { fd: number } })._handle.fd)
    one.destroy()
    const worker = new Worker(module, { workerData: fd, execArgv: [] })
    await once(worker, 'message')
    await worker.terminate()
    const ended = once(other, 'end')
    other.resume()
    await ended
    other.destroy()
    await once(other, 'close')
  }
  await round()
  const before = count()
  for (let number = 0; number < 10; number++) await round()
  t.ok(count() <= before, `${before} → ${count()}`)
})

t.test('the access mode of a descriptor is what it was opened with', async (t) => {
  const path = join(t.testdir({ a: 'a' }), 'a')
  const table = [
    { flags: constants.O_RDONLY, access: 'read' },
    { flags: constants.O_WRONLY | constants.O_APPEND, access: 'write' },
    { flags: constants.O_RDWR, access: 'both' },
    { flags: 0o10000000, access: undefined },
  ] as const
  for (const { flags, access } of table) {
    const fd = openSync(path, flags)
    t.equal(accessOf(fd), access)
    closeSync(fd)
  }
  t.equal(accessOf(1_000_000), undefined)
})

t.test('a reference can be opened anew after the descriptor and the name are gone', async (t) => {
  const path = join(t.testdir({ a: 'contents' }), 'a')
  const fd = openSync(path, 'r')
  const reference = referenceTo(fd)
  t.equal(accessOf(reference), undefined)
  closeSync(fd)
  unlinkSync(path)
  const again = openSync(`/proc/self/fd/${reference}`, 'r+')
  writeFileSync(again, 'C')
  const text = Buffer.alloc(8)
  readSync(again, text, 0, 8, 0)
  t.equal(text.toString(), 'Contents')
  closeSync(again)
  closeSync(reference)
  t.equal(referenceTo(1_000_000), -2)
})

t.test('many descriptors are closed at once', async (t) => {
  const folder = t.testdir({ a: 'a' })
  const fds = Array.from({ length: 300 }, () => openSync(join(folder, 'a'), 'r'))
  for (const fd of fds) closeDescriptor(fd)
  t.equal(await closed(folder), 0)
  t.throws(() => fstatSync(fds[0] as number), /EBADF/)
})

t.test('only Unix stream sockets are taken for such', async (t) => {
  const fd = openSync('/dev/null', 'r')
  t.equal(isLocalStream(fd), false)
  closeSync(fd)
  t.equal(isLocalStream(1_000_000), false)
  t.equal(duplicate(1_000_000), -9)
})
