// SPDX-License-Identifier: Apache-2.0
// Pages sent as records of a migration stream: byte for byte what a reader of such streams expects.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Range } from '../../native/types.js'
import { installed } from '../helpers/program.js'
import { socketPair } from './descriptors.js'
import { difference, engineFor, KIB, kinds, MIB, pattern, takeSlot } from './kinds.js'
import { records } from './page-records.js'

const EINVAL = -22
const noFifo = installed('mkfifo') ? false : 'no mkfifo'

const first = Buffer.concat([Buffer.from('0000000000003008', 'hex'), Buffer.from('\x06pc.ram')])
const cases = [
  { name: 'one page', pageSize: 4096, pages: [{ offset: 0x3000, length: 4096 }] },
  {
    name: 'runs that lie apart',
    pageSize: 4096,
    pages: [
      { offset: 0x3000, length: 32 * KIB },
      { offset: 2 ** 40, length: 4096 },
      { offset: 0, length: 700 * KIB },
    ],
  },
  { name: 'more pages than one call takes', pageSize: 1024, pages: [{ offset: 0x3000, length: MIB }] },
  { name: 'large pages', pageSize: 65_536, pages: [{ offset: 0x30000, length: MIB }] },
]

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const { name, pageSize, pages } of cases) {
      t.test(`${name} over a socket`, async (t) => {
        const engine = engineFor(t, { aio })
        const { mine, peer, fd } = await socketPair(t)
        const file = await engine.adopt(fd)
        mine.destroy()
        const parts: Buffer[] = []
        peer.on('data', (part: Buffer) => parts.push(part))
        const ended = once(peer, 'end')
        const slot = takeSlot(engine)
        engine.slotBytes(slot).set(pattern(MIB))
        const length = pages.reduce((sum, each) => sum + each.length, 0)
        t.equal(await engine.sendPages(file, pages, pageSize, slot, 0, first), length)
        await engine.close(file)
        await ended
        t.equal(difference(Buffer.concat(parts), records(pages, pageSize, pattern(MIB), first)), undefined)
      })

      t.test(`${name} to a file`, async (t) => {
        const engine = engineFor(t, { aio })
        for (const direct of [0, constants.O_DIRECT]) {
          const path = join(t.testdir(), 'stream')
          const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | direct)
          const file = await engine.adopt(fd)
          const slot = takeSlot(engine)
          engine.slotBytes(slot).set(pattern(MIB))
          const length = pages.reduce((sum, each) => sum + each.length, 0)
          t.equal(await engine.sendPages(file, pages, pageSize, slot, 0, first), length)
          const wanted = records(pages, pageSize, pattern(MIB), first)
          t.equal(difference(readFileSync(path), wanted), undefined)
          engine.giveSlots([slot])
          await engine.close(file)
          closeSync(fd)
        }
      })
    }

    for (const without of [[], ['nowait']] as const) {
      const how = without.length > 0 ? ' that cannot be asked without waiting' : ''
      t.test(`pages to a pipe${how}`, { skip: noFifo }, async (t) => {
        const engine = engineFor(t, { aio })
        const path = join(t.testdir(), 'fifo')
        spawnSync('mkfifo', [path])
        const file = await engine.open(path, { write: true, without })
        const reader = openSync(path, constants.O_RDONLY)
        const slot = takeSlot(engine)
        engine.slotBytes(slot).set(pattern(MIB))
        const pages = [{ offset: 0, length: MIB - 4096 }]
        const wanted = records(pages, 4096, pattern(MIB).subarray(4096), first)
        const sent = engine.sendPages(file, pages, 4096, slot, 4096, first)
        const found = new Uint8Array(wanted.length)
        for (let at = 0; at < found.length; ) {
          at += readSync(reader, found, at, found.length - at, null)
          await new Promise((resolve) => setImmediate(resolve))
        }
        t.equal(await sent, MIB - 4096)
        t.equal(difference(found, wanted), undefined)
        closeSync(reader)
      })
    }

    t.test('what is no pages is refused', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open('/dev/null', { write: true })
      const slot = takeSlot(engine)
      const send = (pages: Range[], pageSize: number, slotOffset = 0) =>
        engine.sendPages(file, pages, pageSize, slot, slotOffset, first)
      const page = { offset: 0, length: 4096 }
      t.equal(await send([], 4096), EINVAL, 'none')
      t.equal(await send([page], 512), EINVAL, 'flags would not fit')
      t.equal(await send([page], 3000), EINVAL)
      t.equal(await send([{ offset: 100, length: 4096 }], 4096), EINVAL)
      t.equal(await send([{ offset: 0, length: 4095 }], 4096), EINVAL)
      t.equal(await send([{ offset: -4096, length: 4096 }], 4096), EINVAL)
      t.equal(await send([{ offset: 0, length: MIB }], 4096, 1), EINVAL, 'more than a slot')
      t.equal(await send([page, page], 4096, MIB - 8192), 8192)
    })
  })
}
