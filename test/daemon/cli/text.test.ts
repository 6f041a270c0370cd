// SPDX-License-Identifier: Apache-2.0
// What people read: tables, progress, maps, indented JSON.

import t from 'tap'
import { indented } from '../../../daemon/cli/indented.js'
import type { Progress } from '../../../daemon/cli/job-follower.js'
import { append, humanText, jsonText, type MapExtent } from '../../../daemon/cli/map.js'
import { percentText, progressText } from '../../../daemon/cli/reporter.js'
import { JsonStream } from '../../../protocol/json-stream.js'

const progress: Progress = {
  status: 'running',
  phase: 'bulk',
  offset: 1288490188,
  length: 4294967296,
  rate: 891289600,
  etaSeconds: 3,
  ioStatus: 'ok',
}

t.test('progress is bytes, rate and ETA', async (t) => {
  t.equal(progressText(progress, ', '), '1.20 GiB of 4.00 GiB, 850 MiB/s, ETA 3 s')
})

t.test('a request that waits long is told, a fresh one is not', async (t) => {
  const waits = (ageMs: number) => progressText({ ...progress, oldest: { operation: 'flush', ageMs } }, ', ')
  t.match(waits(12000), ', flush waits 12.0 s')
  t.notMatch(waits(1999), 'waits')
})

t.test('percent is 100 only at the end', async (t) => {
  t.equal(percentText({ ...progress, offset: progress.length - 1 }), '99.9%')
  t.equal(percentText({ ...progress, offset: progress.length }), '100.0%')
  t.equal(percentText({ ...progress, offset: 0, length: 0 }), '0.0%')
})

const data: MapExtent = {
  start: 0,
  length: 4096,
  depth: 0,
  present: true,
  zero: false,
  data: true,
  compressed: false,
  offset: 0,
}

t.test('an extent cut by the border of two portions becomes one again', async (t) => {
  const hole = { ...data, start: 8192, zero: true, data: false, offset: 8192 }
  const extents: MapExtent[] = []
  append(extents, [data])
  append(extents, [{ ...data, start: 4096, offset: 4096 }, hole])
  append(extents, [{ ...hole, start: 12288, offset: 999 }])
  t.same(extents, [{ ...data, length: 8192 }, hole, { ...hole, start: 12288, offset: 999 }])
})

t.test('a map is a table of data, or JSON with one extent per line', async (t) => {
  const hole = { ...data, start: 4096, length: 8192, zero: true, data: false, offset: 4096 }
  const below = { ...data, start: 65536, depth: 1, offset: 0x50000 }
  t.same(humanText([data, hole, below], ['top', 'base']), {
    text: [
      'Offset          Length          Mapped to       File',
      '0               0x1000          0               top',
      '0x10000         0x1000          0x50000         base',
      '',
    ].join('\n'),
    complete: true,
  })
  t.equal(
    jsonText([data, hole]),
    `[{ "start": 0, "length": 4096, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 0},
{ "start": 4096, "length": 8192, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false, "offset": 4096}]
`,
  )
  t.equal(jsonText([]), '[]\n')
})

t.test('a table for people ends at compressed data', async (t) => {
  const { offset: _, ...packed } = { ...data, start: 4096, compressed: true }
  const { text, complete } = humanText([data, packed, { ...data, start: 8192 }], ['a'])
  t.equal(complete, false)
  t.equal(text.split('\n').length, 3)
})

t.test('short values stay on one line, long ones are indented', async (t) => {
  const text =
    '{"a": [1, 2], "b": {"long": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "n": 9007199254740993}}'
  const [item] = new JsonStream().push(new TextEncoder().encode(text))
  t.equal(
    indented(item?.kind === 'value' ? item.value : null),
    `{
  "a": [1, 2],
  "b": {
    "long": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "n": 9007199254740993
  }
}`,
  )
})
