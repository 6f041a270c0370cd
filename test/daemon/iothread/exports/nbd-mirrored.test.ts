// SPDX-License-Identifier: Apache-2.0
// A disk that is served while it is mirrored: clients go on through start, ready and the end, and the copy is equal.

import t from 'tap'
import { random } from '../../../helpers/graph.js'
import { pattern, Served } from '../../../helpers/nbd/served.js'

const MIB = 1 << 20
const SIZE = 8 * MIB
const READ_ONLY = { writable: false, writethrough: false, allocationDepth: true }

for (const copyMode of ['background', 'write-blocking'] as const)
  t.test(`${copyMode}: what clients write until the mirror ends is on its target`, async (t) => {
    const served = await Served.open(t, { size: SIZE })
    const { bench } = served
    await bench.add({ driver: 'x-memory', 'node-name': 'copy', size: SIZE })
    const client = await served.client('structured')
    const model = Buffer.alloc(SIZE)
    const pick = random(7)
    const write = async (count: number): Promise<number[]> => {
      const errors: number[] = []
      for (let index = 0; index < count; index++) {
        const offset = pick(SIZE - MIB)
        const bytes = pattern(offset, 1 + pick(MIB), pick(256))
        errors.push((await client.write(offset, bytes)).error)
        bytes.copy(model, offset)
      }
      return errors.filter((error) => error !== 0)
    }
    t.strictSame(await write(10), [], 'before')
    await bench.mirror('m', { source: 'disk', target: 'copy', copyMode })
    t.strictSame(await write(20), [], 'while it is copied')
    await bench.report('job-ready', 'm')
    t.strictSame(await write(10), [], 'when it is ready')
    await bench.request('job-complete', { id: 'm', pivot: true })
    await bench.report('job-ended', 'm')
    await bench.request('job-finalize', { id: 'm', commit: true })
    t.ok((await client.read(0, SIZE)).data.equals(model))
    await bench.request('export-add', { id: 'c', node: 'copy', ...READ_ONLY })
    const copy = await served.client('structured', {}, new Uint8Array(), 'unix', 'c')
    t.ok((await copy.read(0, SIZE)).data.equals(model), 'the copy is equal')
    t.strictSame(await write(5), [], 'the source is served still')
    await bench.request('export-del', { id: 'c' })
    await served.remove()
    for (const node of ['disk', 'copy']) await bench.request('node-del', { node })
  })
