// SPDX-License-Identifier: Apache-2.0
// The worker of a disk dies while it serves images: its clients are cut off, their places are free again, the ticket goes on
// with another worker, and other disks know nothing of it.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

/** Runs in every thread of the daemon: a worker throws once a file with its name is there. */
const saboteur = `
import { existsSync } from 'node:fs'
import { isMainThread, workerData } from 'node:worker_threads'
const look = () => { if (existsSync(process.env.SABOTAGE + workerData.name)) throw new Error('sabotage') }
if (!isMainThread) setInterval(look, 5).unref()`

const UNREAD = (id: string) => `GET /images/${id} HTTP/1.1\r\n\r\n`
const UNSENT = (id: string) => `PUT /images/${id} HTTP/1.1\r\ncontent-length: ${MiB}\r\n\r\nsome`
const IDLE = (id: string) => `OPTIONS /images/${id} HTTP/1.1\r\n\r\n`

t.test('a disk whose worker dies under requests is served by another one', async (t) => {
  using scratch = new Scratch()
  writeFileSync(scratch.file('saboteur.mjs'), saboteur)
  const env = { SABOTAGE: scratch.file('kill-'), NODE_OPTIONS: `--import ${scratch.file('saboteur.mjs')}` }
  await using daemon = await ImagesDaemon.start(scratch, [], '', env)
  for (const name of ['dies', 'lives']) {
    fill(scratch.file(name), 8 * MiB)
    await daemon.ticket(name, name, 8 * MiB)
    t.equal((await daemon.images('OPTIONS', name)).status, 200)
  }
  const show = async (id: string) => JSON.parse((await daemon.tickets('GET', id)).text)
  const clients = [UNREAD, UNSENT, IDLE].flatMap((request) =>
    ['dies', 'lives'].map((id) => {
      const client = new RawConnection(daemon.local)
      t.teardown(() => client[Symbol.dispose]())
      if (request === UNREAD) client.socket.pause()
      client.send(request(id))
      return { id, client }
    }),
  )
  for (const id of ['dies', 'lives']) while ((await show(id)).connections < 3);
  // The thread was made before there was a disk for it, and the first one got it.
  writeFileSync(scratch.file('kill-spare0'), '')
  while ((await show('dies')).connections > 0);
  for (const { id, client } of clients) {
    if (id !== 'dies') continue
    client.socket.resume()
    t.ok((await client.closed()).length < 8 * MiB)
  }
  t.equal((await show('lives')).connections, 3)
  t.equal((await daemon.images('GET', 'dies', { range: 'bytes=0-9' })).status, 206)
  t.equal((await daemon.images('PUT', 'dies', {}, 'again')).status, 200)
  for (const id of ['dies', 'lives']) t.equal((await daemon.tickets('DELETE', id)).status, 204)
})
