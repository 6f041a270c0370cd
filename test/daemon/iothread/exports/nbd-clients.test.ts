// SPDX-License-Identifier: Apache-2.0
// Clients of an NBD export that go away in the middle, do not read, or are many; exports that are removed under them.

import { once } from 'node:events'
import type { Test } from 'tap'
import t from 'tap'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { nbdErrors } from '../../../../protocol/nbd/error-number.js'
import type { Answer, NbdClient } from '../../../helpers/nbd/client.js'
import { pattern, Served, STYLES } from '../../../helpers/nbd/served.js'
import { leftOver, openDescriptors } from '../../../native/descriptors.js'

const MIB = 1 << 20

/** Requests for reads, sent in one write and not read the answers of. */
function askAway(client: NbdClient, count: number, length: number): Promise<Answer>[] {
  client.socket.pause()
  const asks = Array.from({ length: count }, (_, index) =>
    client.prepare({ command: commands.READ, offset: index * 512, length }),
  )
  client.socket.write(Buffer.concat(asks.map(({ bytes }) => bytes)))
  return asks.map(({ answer }) => answer)
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

async function works(t: Test, served: Served): Promise<void> {
  const client = await served.client('structured')
  const bytes = pattern(5, 3 * MIB, 9)
  t.equal((await client.write(5, bytes)).error, 0)
  t.ok((await client.read(5, bytes.length)).data.equals(bytes), 'another client is served')
  client.disconnect()
  await client.ended()
}

for (const style of STYLES) {
  t.test(`${style}: a client that reads nothing holds a part of the memory`, async (t) => {
    const served = await Served.open(t, { size: 16 * MIB })
    const idle = await served.client(style)
    await idle.write(0, pattern(0, 16 * MIB))
    const answers = askAway(idle, 300, 2 * MIB)
    await turns(300)
    t.ok(idle.unanswered > 200)
    await works(t, served)
    idle.socket.resume()
    for (const answer of answers) t.equal((await answer).error, 0)
  })

  t.test(`${style}: many clients that read nothing leave something to others`, async (t) => {
    const served = await Served.open(t, { size: 16 * MIB })
    const idle = await Promise.all(Array.from({ length: 40 }, () => served.client(style)))
    await idle[0]?.write(0, pattern(0, 16 * MIB))
    const answers = idle.flatMap((client, index) => askAway(client, index < 8 ? 20 : 4, 2 * MIB))
    await turns(300)
    await works(t, served)
    for (const client of idle) client.socket.resume()
    const errors = (await Promise.all(answers)).filter(({ error }) => error !== 0)
    t.strictSame(errors, [])
  })

  t.test(`${style}: clients that vanish leave nothing`, async (t) => {
    const before = openDescriptors()
    await t.test('while they are served', async (t) => {
      const served = await Served.open(t, { size: 16 * MIB })
      await works(t, served)
      for (const kind of ['unix', 'tcp'] as const)
        for (const length of [512, 3 * MIB]) {
          const client = await served.client(style, {}, new Uint8Array(), kind)
          for (const answer of askAway(client, 50, length)) answer.catch(() => undefined)
          await turns(20)
          if (kind === 'tcp') client.socket.resetAndDestroy()
          else client.socket.destroy()
        }
      await served.left(5)
      await works(t, served)
      await served.remove()
    })
    t.strictSame(await leftOver(before), [])
  })

  t.test(`${style}: a client that is cut in the middle of its payload`, async (t) => {
    const served = await Served.open(t, { size: 16 * MIB })
    await works(t, served)
    const flags = style === 'extended' ? commandFlags.PAYLOAD_LEN : 0
    for (const cut of [1, 31, 40, 5000, MIB, 3 * MIB + 7]) {
      const client = await served.client(style, {}, new Uint8Array(), 'tcp')
      const payload = pattern(0, 8 * MIB, 3)
      const ask = client.prepare({
        command: commands.WRITE,
        offset: 0,
        length: payload.length,
        payload,
        flags,
      })
      await new Promise((resolve) => client.socket.write(ask.bytes.subarray(0, cut), resolve))
      await turns(20)
      client.socket.resetAndDestroy()
    }
    t.match(await served.left(7), [undefined, /went away/])
    await works(t, served)
    await served.remove()
  })
}

t.test('what came whole of a write that was cut is written, or is not', async (t) => {
  const served = await Served.open(t, { size: 8 * MIB })
  const client = await served.client('simple')
  const payload = pattern(0, 4 * MIB, 3)
  const ask = client.prepare({ command: commands.WRITE, offset: 0, length: payload.length, payload })
  client.socket.end(ask.bytes.subarray(0, 28 + 2 * MIB + 1))
  t.strictSame(await served.left(1), ['the client went away'])
  const other = await served.client('simple')
  const { data } = await other.read(0, 4 * MIB)
  for (const at of [0, 1, 2, 3].map((index) => index * MIB)) {
    const part = data.subarray(at, at + MIB)
    t.ok(part.equals(Buffer.alloc(MIB)) || part.equals(payload.subarray(at, at + MIB)), `MiB at ${at}`)
  }
})

t.test('an export is removed when what clients had under way is over', async (t) => {
  const rules = [
    { op: 'read', stall: true, count: 0 },
    { op: 'write', stall: true, count: 0 },
  ]
  const served = await Served.open(t, { rules })
  const clients = await Promise.all(STYLES.map((style) => served.client(style)))
  const answers = clients.flatMap((client) => [
    client.read(0, 3 * MIB),
    client.read(0, 512),
    client.write(0, pattern(0, 2 * MIB)),
  ])
  await turns(50)
  let removed = false
  const removing = served.remove().then(() => {
    removed = true
  })
  for (const answer of answers) await t.rejects(answer, 'clients are cut off at once')
  await turns(50)
  t.notOk(removed, 'the disk still has their memory')
  const spec = { driver: 'x-inject', 'node-name': 'top', file: 'below', rules: [] }
  await served.bench.request('node-reopen', { specs: [spec] })
  await removing
  t.equal((await served.left(3)).length, 3)
})

t.test('nothing is read for a client that has gone', async (t) => {
  const served = await Served.open(t, { size: 2 ** 40, rules: [{ op: 'read', 'delay-ms': 1, count: 0 }] })
  const client = await served.client('extended')
  const whole = { offset: 0, length: 2 ** 40 }
  client.request({ command: commands.CACHE, ...whole }).catch(() => undefined)
  client.read(0, 32 * MIB).catch(() => undefined)
  await turns(20)
  client.socket.destroy()
  await served.left(1)
  await served.remove()
})

t.test('a disk that was made shorter answers its clients', async (t) => {
  const served = await Served.open(t)
  for (const style of STYLES) {
    const client = await served.client(style)
    await served.bench.request('node-resize', { node: 'disk', size: MIB })
    t.equal((await client.read(2 * MIB, 512)).error, nbdErrors.EINVAL)
    t.equal((await client.write(2 * MIB, pattern(0, 512))).error, nbdErrors.EINVAL)
    if (style !== 'simple') {
      const ask = { command: commands.BLOCK_STATUS, offset: 2 * MIB, length: 512 }
      t.equal((await client.request(ask)).error, nbdErrors.EINVAL)
    }
    t.equal((await client.read(0, 512)).error, 0)
    await served.bench.request('node-resize', { node: 'disk', size: served.size })
  }
})

t.test('requests of nobody: an unknown export takes no descriptor', async (t) => {
  const before = openDescriptors()
  await t.test('served', async (t) => {
    const served = await Served.open(t)
    await served.remove()
    await t.rejects(served.client(), { message: "Export 'e' is not found" })
  })
  t.strictSame(await leftOver(before), [])
})

t.test('DISC is the end, whatever stands behind it', async (t) => {
  const served = await Served.open(t)
  for (const style of STYLES) {
    const client = await served.client(style)
    const read = client.prepare({ command: commands.READ, offset: 0, length: 3 * MIB })
    const leave = client.prepare({ command: commands.DISC, offset: 0, length: 0 })
    const late = client.prepare({ command: commands.READ, offset: 0, length: 512 })
    client.socket.write(Buffer.concat([read.bytes, leave.bytes, late.bytes]))
    t.equal((await read.answer).error, 0, 'what came before is answered')
    await t.rejects(late.answer)
  }
  t.strictSame(await served.left(3), [undefined, undefined, undefined])
})

t.test('a client that ends both sides is over at once', async (t) => {
  const served = await Served.open(t)
  const client = await served.client('structured')
  client.socket.end()
  await once(client.socket, 'close')
  t.strictSame(await served.left(1), [undefined])
})
