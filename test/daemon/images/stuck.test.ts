// SPDX-License-Identifier: Apache-2.0
// Tickets on storage that does not answer: whoever removes one is told in time, others go on, and it can be tried again.

import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'
import { SlowFs, type SlowOp, slowfsAbsent } from '../../helpers/slowfs.js'

t.setTimeout(180_000)

const skip = slowfsAbsent()
const FOREVER_MS = 120_000

/** Storage whose calls fail when it is freed. */
class StuckFolder {
  readonly slow: SlowFs
  #freed: Promise<void> | undefined

  private constructor(slow: SlowFs) {
    this.slow = slow
  }

  static async make(scratch: Scratch): Promise<StuckFolder> {
    return new StuckFolder(await SlowFs.mount(scratch.path))
  }

  free(): Promise<void> {
    this.#freed ??= this.slow.unmount()
    return this.#freed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.free()
  }
}

interface Row {
  readonly op: SlowOp
  readonly name: string
  readonly request: string
  /** It is answered before storage does something. */
  readonly answered: boolean
  /** What the client is told when its ticket is removed; undefined: nothing while storage is stuck. */
  readonly told?: RegExp
}

const OPTIONS = 'OPTIONS /images/slow HTTP/1.1\r\n\r\n'
const rows: readonly Row[] = [
  { op: 'open', name: 'opening', request: OPTIONS, answered: false, told: /HTTP\/1.1 403 [\s\S]*canceled/ },
  { op: 'read', name: 'reading', request: 'GET /images/slow HTTP/1.1\r\n\r\n', answered: false },
  {
    ...{ op: 'write', name: 'writing', answered: false },
    request: `PUT /images/slow HTTP/1.1\r\ncontent-length: 4096\r\n\r\n${'x'.repeat(4096)}`,
  },
  {
    ...{ op: 'fsync', name: 'flushing', answered: false },
    request: 'PATCH /images/slow HTTP/1.1\r\ncontent-length: 14\r\n\r\n{"op":"flush"}',
  },
  { op: 'flush', name: 'closing', request: OPTIONS, answered: true },
]

for (const { op, name, request, answered, told } of rows)
  t.test(
    `a ticket is not removed while ${name} does not end, and others are as ever`,
    { skip },
    async (t) => {
      using scratch = new Scratch()
      await using folder = await StuckFolder.make(scratch)
      const { slow } = folder
      fill(`${slow.files}/disk`, MiB)
      fill(scratch.file('data'), MiB)
      await using daemon = await ImagesDaemon.start(scratch, [], ',remove-timeout=1')
      for (const id of ['other', 'gone']) {
        await daemon.ticket(id, 'data', MiB)
        t.equal((await daemon.images('OPTIONS', id)).status, 200)
      }
      await daemon.ticket('slow', 'slow/disk', MiB)
      if (op !== 'open') t.equal((await daemon.images('OPTIONS', 'slow')).status, 200)
      slow.rules({ op, delayMs: FOREVER_MS })
      using client = new RawConnection(daemon.local)
      client.send(request)
      const show = async () => JSON.parse((await daemon.tickets('GET', 'slow')).text)
      if (answered) await client.until(/max_writers/)
      else if (op !== 'open') while (!(await show()).active);
      // Who came later was served: the request that opens the disk has been taken.
      for (let turn = 0; turn < 3; turn++) await daemon.images('OPTIONS', 'other')
      const removed = [daemon.tickets('DELETE', 'slow'), daemon.tickets('DELETE', 'slow')]
      t.equal((await daemon.images('GET', 'other')).status, 200)
      t.equal((await daemon.tickets('DELETE', 'gone')).status, 204)
      for (const reply of await Promise.all(removed))
        t.match(reply, { status: 409, text: /did not end in time/ })
      t.match(await show(), { canceled: true })
      t.equal((await daemon.images('OPTIONS', 'slow')).status, 403)
      t.equal((await daemon.tickets('PUT', 'slow', await show())).status, 409)
      if (told !== undefined) t.match(await client.until(told), /canceled/)
      await folder.free()
      for (let status = 409; status !== 204; { status } = await daemon.tickets('DELETE', 'slow'))
        t.equal(status, 409)
      t.equal((await daemon.tickets('GET', 'slow')).status, 404)
    },
  )

t.test('what was done with a ticket is told while its image does not close', { skip }, async (t) => {
  using scratch = new Scratch()
  await using folder = await StuckFolder.make(scratch)
  const { slow } = folder
  fill(`${slow.files}/disk`, MiB)
  await using daemon = await ImagesDaemon.start(scratch, [], ',remove-timeout=1')
  await daemon.ticket('slow', 'slow/disk', MiB, { ops: ['read'] })
  t.equal((await daemon.images('GET', 'slow', { range: 'bytes=0-9' })).status, 206)
  const show = async () => JSON.parse((await daemon.tickets('GET', 'slow')).text)
  const { expires } = await show()
  slow.rules({ op: 'flush', delayMs: FOREVER_MS })
  t.equal((await daemon.tickets('DELETE', 'slow')).status, 409)
  t.match(await show(), { canceled: true, transferred: 10, expires })
  await folder.free()
})

t.test(
  'with a timeout of 0 a ticket is removed without waiting, and stays until it is idle',
  { skip },
  async (t) => {
    using scratch = new Scratch()
    await using folder = await StuckFolder.make(scratch)
    const { slow } = folder
    fill(`${slow.files}/disk`, MiB)
    await using daemon = await ImagesDaemon.start(scratch, [], ',remove-timeout=0')
    await daemon.ticket('slow', 'slow/disk', MiB)
    t.equal((await daemon.images('OPTIONS', 'slow')).status, 200)
    slow.rules({ op: 'read', delayMs: FOREVER_MS })
    using client = new RawConnection(daemon.local)
    client.send('GET /images/slow HTTP/1.1\r\n\r\n')
    const show = () => daemon.tickets('GET', 'slow')
    while (!JSON.parse((await show()).text).active);
    t.equal((await daemon.tickets('DELETE', 'slow')).status, 204)
    t.match(JSON.parse((await show()).text), { canceled: true, active: true })
    await folder.free()
    while ((await show()).status !== 404) t.equal((await daemon.tickets('DELETE', 'slow')).status, 204)
  },
)

t.test('four hundred clients of a stuck image leave room for those of others', { skip }, async (t) => {
  using scratch = new Scratch()
  await using folder = await StuckFolder.make(scratch)
  const { slow } = folder
  fill(`${slow.files}/disk`, MiB)
  fill(scratch.file('data'), MiB)
  await using daemon = await ImagesDaemon.start(scratch)
  await daemon.ticket('other', 'data', MiB)
  await daemon.ticket('slow', 'slow/disk', MiB)
  slow.rules({ op: 'open', delayMs: FOREVER_MS })
  const clients: RawConnection[] = []
  t.teardown(() => {
    for (const client of clients) client[Symbol.dispose]()
  })
  for (let count = 0; count < 400; count++) {
    const client = new RawConnection(daemon.local)
    client.send(OPTIONS)
    clients.push(client)
    if (count % 50 === 0) t.equal((await daemon.images('GET', 'other')).status, 200)
  }
  t.equal((await daemon.tickets('GET', 'slow')).status, 200)
  await folder.free()
  for (const client of clients) await client.until(/HTTP\/1.1 [25]00/)
})
