// SPDX-License-Identifier: Apache-2.0
// Listeners and connections of both engines.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync, writeFileSync } from 'node:fs'
import { createServer, connect as dial } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine } from '../../native/engine.js'
import type { StreamAddress } from '../../native/stream-types.js'
import type { IoEngine } from '../../native/types.js'
import { shortFolder } from '../helpers/short-folder.js'
import { within } from '../helpers/waiting.js'
import { leftOver, openDescriptors } from './descriptors.js'
import { engineFor, factsOf, kinds, takeSlot } from './kinds.js'

const ECANCELED = -125
const LONG = 60_000

const noIpv6 = Object.values(networkInterfaces()).some((each) =>
  each?.some(({ family }) => family === 'IPv6'),
)
  ? false
  : 'no IPv6 here'

async function said(engine: IoEngine, from: number, to: number, text: string): Promise<string> {
  const [slot, other] = [takeSlot(engine), takeSlot(engine)]
  engine.slotBytes(slot).set(Buffer.from(text))
  const received = engine.receive(to, 100, other, 0, 0)
  await engine.send(from, text.length, slot, 0)
  const found = Buffer.from(engine.slotBytes(other).subarray(0, await received)).toString()
  engine.giveSlots([slot, other])
  return found
}

/** A program that listens and then takes no connection: only as many as its backlog of one are let in. */
async function deafListener(
  t: Test,
  kind: 'unix' | 'tcp',
): Promise<{ child: ChildProcess; address: StreamAddress }> {
  const path = join(shortFolder(t), 'deaf')
  const where = kind === 'unix' ? { path } : { port: 0, host: '127.0.0.1' }
  const script = `
    import { createServer } from 'node:net'
    const server = createServer((socket) => socket.on('error', () => {}).end('late'))
    server.listen(${JSON.stringify({ ...where, backlog: 1 })}, () => {
      process.stdout.write(JSON.stringify(server.address()) + '\\n', () => process.kill(process.pid, 'SIGSTOP'))
    })
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const address = JSON.parse(line.toString()) as string | { port: number }
  if (typeof address === 'string') return { child, address: { kind: 'unix', path: address } }
  return { child, address: { kind: 'tcp', host: '127.0.0.1', port: address.port } }
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    t.test('a Unix socket is listened at, by its owner alone', async (t) => {
      const engine = engineFor(t, { aio })
      const address = { kind: 'unix', path: join(shortFolder(t), 'socket') } as const
      const listener = await engine.listen(address)
      t.equal(statSync(address.path).mode & 0o777, 0o600)
      t.equal(await engine.portOf(listener), 0)
      const accepted = engine.accept(listener)
      const [one, other] = [await engine.connect(address), await accepted]
      t.equal((await factsOf(engine, other)).kind, 'socket')
      t.equal(await said(engine, one, other, 'there'), 'there')
      t.equal(await said(engine, other, one, 'and back'), 'and back')
      t.equal(await engine.listen(address), -98, 'not twice')
      await engine.close(listener)
      t.ok(statSync(address.path).isSocket(), 'its file stays')
      t.equal(await engine.connect(address), -111, 'and nobody listens there')
    })

    for (const { host, dialled, skip } of [
      { host: '127.0.0.1', dialled: '127.0.0.1', skip: false },
      { host: '::1', dialled: '::1', skip: noIpv6 },
      { host: 'localhost', dialled: 'localhost', skip: false },
      { host: '', dialled: '127.0.0.1', skip: false },
      { host: '', dialled: '', skip: false },
    ]) {
      t.test(`TCP: listening at '${host}' is reached by '${dialled}'`, { skip }, async (t) => {
        const engine = engineFor(t, { aio })
        const listener = await engine.listen({ kind: 'tcp', host, port: 0 })
        const port = await engine.portOf(listener)
        t.ok(port > 0, `port ${port}`)
        const accepted = engine.accept(listener)
        const one = await engine.connect({ kind: 'tcp', host: dialled, port })
        t.equal(await said(engine, one, await accepted, 'there'), 'there')
        t.equal(await engine.portOf(await accepted), port)
        const again = await engine.listen({ kind: 'tcp', host, port })
        t.equal(again, -98, 'the port is taken')
      })
    }

    t.test('connections are accepted in the order they are asked for', async (t) => {
      const engine = engineFor(t, { aio })
      const address = { kind: 'unix', path: join(shortFolder(t), 'socket') } as const
      const listener = await engine.listen(address)
      const accepts = Array.from({ length: 20 }, () => engine.accept(listener))
      const sockets = accepts.map((_, index) => {
        const socket = dial(address.path)
        socket.write(`${index}`)
        t.teardown(() => socket.destroy())
        return socket
      })
      const slot = takeSlot(engine)
      for (const [index, accepted] of accepts.entries()) {
        const length = await engine.receive(await accepted, 10, slot, 0, 0)
        t.equal(Buffer.from(engine.slotBytes(slot).subarray(0, length)).toString(), `${index}`)
      }
      for (const socket of sockets) socket.destroy()
    })

    t.test('a listener that is shut down accepts and lets in nobody', async (t) => {
      const engine = engineFor(t, { aio })
      for (const address of [
        { kind: 'unix', path: join(shortFolder(t), 'socket') },
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
      ] as const) {
        const listener = await engine.listen(address)
        const port = await engine.portOf(listener)
        const accepts = [engine.accept(listener), engine.accept(listener)]
        engine.shutdownStream(listener, 'both')
        t.same(await Promise.all(accepts), [ECANCELED, ECANCELED])
        t.equal(await engine.accept(listener), ECANCELED)
        t.ok((await engine.connect(address.kind === 'tcp' ? { ...address, port } : address)) < 0)
        t.equal(await engine.close(listener), 0)
      }
    })

    t.test('what cannot be connected or listened at says why', async (t) => {
      const engine = engineFor(t, { aio })
      const folder = shortFolder(t)
      writeFileSync(join(folder, 'file'), '')
      t.equal(await engine.connect({ kind: 'unix', path: join(folder, 'nothing') }), -2)
      t.equal(await engine.connect({ kind: 'unix', path: join(folder, 'file') }), -111)
      t.equal(await engine.connect({ kind: 'unix', path: '' }), -22)
      t.equal(await engine.listen({ kind: 'unix', path: `/${'x'.repeat(107)}` }), -36)
      t.equal(await engine.listen({ kind: 'unix', path: `/${'x'.repeat(10)}\0` }), -22)
      t.equal(await engine.listen({ kind: 'tcp', host: '127.0.0.1', port: 65_536 }), -22)
      t.equal(await engine.listen({ kind: 'tcp', host: '192.0.2.1', port: 0 }), -99)
      t.ok((await engine.connect({ kind: 'tcp', host: 'no such name', port: 1 })) < 0)
      const listener = await engine.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 })
      const port = await engine.portOf(listener)
      await engine.close(listener)
      t.equal(await engine.connect({ kind: 'tcp', host: '127.0.0.1', port }), -111)
      const file = await engine.open(join(folder, 'file'), { write: false })
      t.equal(await engine.accept(file), -88)
      t.equal(await engine.portOf(file), -88)
    })

    for (const kind of ['unix', 'tcp'] as const) {
      t.test(`${kind}: who waits to be let in is let in, or ends with the engine`, async (t) => {
        const { child, address } = await deafListener(t, kind)
        const before = openDescriptors()
        const engine = createEngine({ aio })
        const results: number[] = []
        const connects = Array.from({ length: 6 }, async () => results.push(await engine.connect(address)))
        while (results.length < 2) await new Promise((resolve) => setImmediate(resolve))
        t.equal(engine.oldest(), undefined, 'nothing is stuck')
        t.ok(results.length < 6, `${results.length} are in the backlog`)
        await within(engine.shutdown(LONG), LONG, 'the end of the engine')
        await Promise.all(connects)
        t.ok(results.includes(ECANCELED), results.join())
        t.same(await leftOver(before), [])

        const other = engineFor(t, { aio })
        const more = Array.from({ length: 6 }, () => other.connect(address))
        child.kill('SIGCONT')
        t.ok((await Promise.all(more)).every((file) => file > 0))
      })
    }

    t.test('a listener that was adopted accepts', async (t) => {
      const script = `
        import { createEngine } from ${JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)}
        const engine = createEngine({ aio: ${JSON.stringify(aio)} })
        const listener = await engine.adopt(3)
        const [slot] = engine.takeSlots(1)
        engine.slotBytes(slot).set(Buffer.from('hello'))
        process.stdout.write('ready')
        process.exit(await engine.send(await engine.accept(listener), 5, slot, 0) === 5 ? 0 : 1)
      `
      const server = createServer().listen(0, '127.0.0.1')
      await once(server, 'listening')
      const address = server.address()
      const port = typeof address === 'object' ? (address?.port ?? 0) : 0
      const fd = (server as unknown as { _handle: { fd: number } })._handle.fd
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit', fd],
      })
      server.close()
      await once(child.stdout ?? child, 'data')
      const socket = dial(port, '127.0.0.1')
      const [text] = (await once(socket, 'data')) as [Buffer]
      t.equal(text.toString(), 'hello')
      t.equal((await once(child, 'exit'))[0], 0)
      socket.destroy()
    })
  })
}
