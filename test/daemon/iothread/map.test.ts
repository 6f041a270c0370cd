// SPDX-License-Identifier: Apache-2.0
// node-map: what of an extent is told, and which neighbours are one.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { Bench } from '../../helpers/iothread.js'

const MiB = 1 << 20
const found = { depth: 0, compressed: false, absent: false, hole: false }

t.test('neighbours are merged where they are alike and lie next to each other', async (t) => {
  const path = `${t.testdir()}/a`
  writeFileSync(path, Buffer.alloc(MiB, 1))
  const bench = new Bench()
  t.teardown(() => bench.end())
  await bench.addFile('f', path)
  await bench.add({ driver: 'raw', 'node-name': 'r', file: 'f', offset: 512 })
  await bench.request('node-resize', { node: 'f', size: 3 * MiB })
  const map = (node: string) => bench.request('node-map', { node, offset: 0, length: 3 * MiB, limit: 9 })
  t.strictSame(await map('f'), [
    { offset: 0, length: MiB, zero: false, allocated: true, host: 0, ...found },
    { offset: MiB, length: 2 * MiB, zero: true, allocated: false, host: MiB, ...found },
  ])
  t.strictSame(await map('r'), [
    { offset: 0, length: MiB - 512, zero: false, allocated: true, host: 512, ...found },
    { offset: MiB - 512, length: 2 * MiB, zero: true, allocated: false, host: MiB, ...found },
  ])
})
