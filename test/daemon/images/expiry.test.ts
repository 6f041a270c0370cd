// SPDX-License-Identifier: Apache-2.0
// Tickets that expire and are forgotten: their images do not stay open, and they can be extended all the same.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:http'
import t from 'tap'
import { RawConnection, request } from '../../helpers/images/http-client.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { childrenOf } from '../../helpers/processes.js'
import { installed } from '../../helpers/program.js'
import { empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { pace } from '../../helpers/waiting.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

const show = async (id: string) => JSON.parse((await daemon.tickets('GET', id)).text)
const get = (id: string) => daemon.images('GET', id, { range: 'bytes=0-9' })

/** Descriptors of a file in the daemon and its engines. */
function descriptorsOf(file: string): number {
  return [daemon.pid, ...childrenOf(daemon.pid)].flatMap(linksOf).filter((to) => to === scratch.file(file))
    .length
}

function linksOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
  } catch {
    // Some are closed while they are looked at.
    return []
  }
}

async function closed(file: string): Promise<void> {
  while (descriptorsOf(file) > 0) await pace(20)
}

t.test(
  'the image of a ticket that has expired is closed, and opened again when it is extended',
  async (t) => {
    fill(scratch.file('file'), MiB)
    await daemon.ticket('once', 'file', MiB, { timeout: 1, ops: ['read'] })
    t.equal((await get('once')).status, 206)
    t.not(descriptorsOf('file'), 0)
    await closed('file')
    t.match(await show('once'), { active: false, connections: 0, transferred: 10, timeout: 1 })
    t.equal((await get('once')).status, 403)
    t.equal((await daemon.tickets('PATCH', 'once', { timeout: 300 })).status, 200)
    t.equal((await daemon.images('GET', 'once', { range: 'bytes=5-19' })).status, 206)
    t.equal((await show('once')).transferred, 20, 'what was done before counts, once')
    await closed('file')
    t.equal((await daemon.tickets('DELETE', 'once')).status, 204)
  },
)

t.test('what was done is told while the image is closed', async (t) => {
  fill(scratch.file('told'), MiB)
  const { table, connect } = await imageTable(t, scratch.file('told'), 16, { ops: ['read'] })
  const status = () => table.handlers['image-status']({ key: 1 })
  const client = await connect('GET /images/t HTTP/1.1\r\nrange: bytes=0-9\r\n\r\n')
  await client.until((text) => /\r\n\r\n[\s\S]{10}$/.test(text))
  while ((await status()).active);
  await table.handlers['image-extend']({ key: 1, timeout: -5 })
  const before = await status()
  const closed = table.handlers['image-expire']({ key: 1 })
  const { transferred, expires, idleTime, active } = await status()
  t.strictSame({ transferred, expires, active }, { transferred: 10, expires: before.expires, active: false })
  t.ok(idleTime >= before.idleTime)
  await table.handlers['image-extend']({ key: 1, timeout: 300 })
  const extended = (await status()).expires
  t.ok(extended > expires, 'and it is extended meanwhile')
  t.match(await closed, { expires: extended, done: { total: 10 } })
  t.throws(status, 'then it is gone')
})

t.test('the last request sets the expiry, also of an image that is closed by now', async (t) => {
  fill(scratch.file('again'), MiB)
  await daemon.ticket('again', 'again', MiB, { timeout: 0 })
  for (let round = 0; round < 5; round++) {
    await daemon.tickets('PATCH', 'again', { timeout: 300 })
    const closed = daemon.logged(/ticket expired/)
    t.equal((await get('again')).status, 206)
    await closed
    t.equal((await get('again')).status, 403)
  }
  await daemon.tickets('DELETE', 'again')
})

t.test('an image that another ticket uses stays open', async (t) => {
  fill(scratch.file('both'), MiB)
  await daemon.ticket('short', 'both', MiB, { timeout: 0 })
  await daemon.ticket('long', 'both', MiB)
  t.equal((await get('long')).status, 206)
  const open = descriptorsOf('both')
  t.not(open, 0)
  await daemon.tickets('PATCH', 'short', { timeout: 60 })
  const expired = daemon.logged(/ticket expired/)
  t.equal((await get('short')).status, 206)
  await expired
  t.equal((await get('long')).status, 206)
  t.equal(descriptorsOf('both'), open)
  await daemon.tickets('DELETE', 'long')
  await closed('both')
  await daemon.tickets('DELETE', 'short')
})

t.test('a request under way keeps the image, and its connection goes on with another ticket', async (t) => {
  empty(scratch.file('slow'), MiB)
  writeFileSync(scratch.file('next'), 'next')
  await daemon.ticket('slow', 'slow', MiB, { timeout: 0 })
  await daemon.ticket('next', 'next', 4)
  await daemon.tickets('PATCH', 'slow', { timeout: 1 })
  using client = new RawConnection(daemon.local)
  client.send('PUT /images/slow HTTP/1.1\r\ncontent-length: 4\r\n\r\nab')
  while (!(await show('slow')).active);
  while ((await get('slow')).status !== 403) await pace(20)
  t.not(descriptorsOf('slow'), 0)
  client.send('cdGET /images/next HTTP/1.1\r\n\r\n')
  t.match(await client.until(/next$/), /^HTTP\/1.1 200[\s\S]*HTTP\/1.1 200/)
  await closed('slow')
  t.equal(readFileSync(scratch.file('slow'), 'latin1').slice(0, 4), 'abcd')
})

t.test('a connection that is idle when its ticket expires goes on when that is extended', async (t) => {
  fill(scratch.file('idle'), MiB)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ask = () => request(daemon.local, 'GET', '/images/idle', { range: 'bytes=0-9' }, undefined, agent)
  await daemon.ticket('idle', 'idle', MiB, { timeout: 1 })
  t.equal((await ask()).status, 206)
  await closed('idle')
  await daemon.tickets('PATCH', 'idle', { timeout: 60 })
  t.equal((await ask()).status, 206)
  await daemon.tickets('DELETE', 'idle')
})

t.test('requests and extensions while it expires are each answered', async (t) => {
  fill(scratch.file('race'), MiB)
  await daemon.ticket('race', 'race', MiB, { timeout: 0 })
  for (let round = 0; round < 100; round++) {
    await daemon.tickets('PATCH', 'race', { timeout: 60 })
    const [one, , two] = await Promise.all([
      get('race'),
      daemon.tickets('PATCH', 'race', { timeout: 60 }),
      get('race'),
    ])
    for (const { status } of [one, two]) t.ok(status === 206 || status === 403, `${status}`)
  }
  t.equal((await daemon.tickets('DELETE', 'race')).status, 204)
  await closed('race')
})

const skip = installed('qemu-nbd') ? false : 'no qemu-nbd'

t.test('the connection to a server is closed, too', { skip }, async (t) => {
  empty(scratch.file('served'), MiB)
  const socket = scratch.file('nbd')
  // It ends with its client.
  const child = spawn('qemu-nbd', ['-k', socket, '-f', 'raw', scratch.file('served')], { stdio: 'ignore' })
  t.teardown(() => child.kill('SIGKILL'))
  const ended = once(child, 'exit')
  while (!existsSync(socket)) await pace(5)
  await daemon.ticket('nbd', '', MiB, { url: `nbd:unix:${socket}`, timeout: 1 })
  t.equal((await daemon.images('PUT', 'nbd?flush=n', {}, 'data')).status, 200)
  t.strictSame(await ended, [0, null])
  t.equal(readFileSync(scratch.file('served'), 'latin1').slice(0, 4), 'data')
})
