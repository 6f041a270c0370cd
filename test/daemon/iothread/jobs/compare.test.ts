// SPDX-License-Identifier: Apache-2.0
// The compare job over real files: what it finds, against a comparison in memory.

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { turn } from '../../../helpers/graph-jobs.js'
import { Bench } from '../../../helpers/iothread.js'

const KiB = 1024
const MiB = 1024 * KiB

type Places = readonly { readonly at: number; readonly fill: number; readonly length?: number }[]

function sparse(path: string, size: number, places: Places): string {
  const file = openSync(path, 'w')
  ftruncateSync(file, size)
  for (const { at, fill, length } of places)
    writeSync(file, Buffer.alloc(length ?? 64 * KiB, fill), 0, length, at)
  closeSync(file)
  return path
}

interface Image {
  readonly size?: number
  readonly places?: Places
}

async function compared(t: Test, one: Image, other: Image, strict = false) {
  const folder = t.testdir({})
  const bench = new Bench()
  await bench.addFile('a', sparse(join(folder, 'a'), one.size ?? 8 * MiB, one.places ?? []))
  await bench.addFile('b', sparse(join(folder, 'b'), other.size ?? 8 * MiB, other.places ?? []))
  await bench.request('job-start', { id: 'j', spec: { kind: 'compare', node: 'a', other: 'b', strict } })
  const { outcome, result, receipt } = await bench.report('job-ended', 'j')
  t.same(outcome, { kind: 'success' })
  await bench.request('job-finalize', { id: 'j', commit: true })
  t.equal(await bench.end(), 0)
  return { result, receipt }
}

const data = {
  places: [
    { at: 0, fill: 1 },
    { at: 5 * MiB, fill: 2 },
  ],
}
const cases = [
  { name: 'two empty images are alike', one: {}, other: {}, result: { identical: true } },
  { name: 'the same data is alike', one: data, other: data, result: { identical: true } },
  {
    name: 'written zeroes are like a hole',
    one: { places: [{ at: MiB, fill: 0 }] },
    other: {},
    result: { identical: true },
  },
  {
    name: 'data is not like a hole',
    one: {},
    other: {
      places: [
        { at: MiB, fill: 0 },
        { at: MiB + 1536, fill: 7, length: 512 },
      ],
    },
    result: { identical: false, difference: 'content', offset: MiB + 1536 },
  },
  {
    name: 'the first of many differences counts',
    one: { places: [{ at: 0, fill: 1, length: 8 * MiB }] },
    other: { places: [0, 1, 2, 3, 4, 5].map((n) => ({ at: 7 * MiB - n * MiB + 512, fill: 2, length: 3 })) },
    result: { identical: false, difference: 'content', offset: 0 },
  },
  {
    name: 'the first differing sector is told, not the byte',
    one: { places: [{ at: 0, fill: 1, length: MiB }] },
    other: {
      places: [
        { at: 0, fill: 1, length: MiB },
        { at: 3 * 512 + 17, fill: 2, length: 1 },
      ],
    },
    result: { identical: false, difference: 'content', offset: 3 * 512 },
  },
  {
    name: 'zeroes beyond the end of the shorter one are alike',
    one: data,
    other: { ...data, size: 9 * MiB },
    result: { identical: true, 'size-mismatch': true },
  },
  {
    name: 'data beyond the end of the shorter one is not',
    one: { ...data, size: 9 * MiB, places: [...data.places, { at: 8 * MiB + 4 * KiB, fill: 3 }] },
    other: data,
    result: { identical: false, difference: 'content', offset: 8 * MiB + 4 * KiB },
  },
  {
    name: 'strictly, sizes must be the same',
    one: data,
    other: { ...data, size: 9 * MiB },
    strict: true,
    result: { identical: false, difference: 'size' },
  },
  {
    name: 'strictly, written zeroes are not a hole',
    one: { places: [{ at: MiB, fill: 0 }] },
    other: {},
    strict: true,
    result: { identical: false, difference: 'status', offset: MiB },
  },
]

for (const { name, one, other, strict, result } of cases) {
  t.test(name, async (t) => {
    t.match((await compared(t, one, other, strict)).result, result)
  })
}

t.test('holes are not read', async (t) => {
  const { receipt } = await compared(t, data, data)
  t.match(receipt, { copied: 128 * KiB, skipped: 8 * MiB - 128 * KiB })
})

t.test('a read error fails the job and names the node', async (t) => {
  const path = sparse(join(t.testdir({}), 'a'), MiB, [{ at: 0, fill: 1 }])
  const bench = new Bench()
  await bench.addFile('a', path)
  const rules = [{ op: 'read', errno: 5, count: 0 }]
  await bench.add({
    driver: 'x-inject',
    'node-name': 'b',
    rules,
    file: { driver: 'file', 'node-name': 'b0', filename: path },
  } as never)
  await bench.request('job-start', {
    id: 'j',
    spec: { kind: 'compare', node: 'a', other: 'b', strict: false },
  })
  const { outcome } = await bench.report('job-ended', 'j')
  t.match(outcome, { kind: 'failed', error: /node 'b'.*Input\/output error/ })
  t.equal(await bench.end(), 0)
})

t.test('comparisons that wait for buffers leave the worker to others', async (t) => {
  const folder = t.testdir({})
  const bench = new Bench()
  const names = ['a', 'b', 'c', 'd']
  const content = { at: 0, fill: 7, length: MiB }
  for (const name of names) await bench.addFile(name, sparse(join(folder, name), MiB, [content]))
  const start = (id: string, node: string, other: string) =>
    bench.request('job-start', { id, spec: { kind: 'compare', node, other, strict: false } })
  const [one = -1, ...others] = bench.engine.takeSlots(1000)
  bench.engine.giveSlots([one])
  await start('j', 'a', 'b')
  await start('k', 'c', 'd')
  // Both know what there is to compare.
  do await turn()
  while (bench.engine.stats().requests > 0)
  bench.engine.giveSlots(others)
  // Those who wait are told of what it gives back.
  await start('l', 'a', 'b')
  for (const id of ['j', 'k', 'l'])
    t.match(await bench.report('job-ended', id), { result: { identical: true } })
  t.equal(await bench.end(), 0)
})
