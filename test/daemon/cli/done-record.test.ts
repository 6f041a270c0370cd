// SPDX-License-Identifier: Apache-2.0
// The record of what of a transfer is done: what it takes away from the parts of a later run, and what it does not believe.

import { appendFileSync, existsSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { DoneRecord, rangesIn } from '../../../daemon/cli/images/done-record.js'
import type { Part } from '../../../daemon/cli/images/transfer.js'
import { Scratch } from '../../helpers/scratch.js'
import { random } from '../../native/kinds.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const path = scratch.file('record')
const about = { url: 'u', size: 100 }

t.test('what is done is missing no more, of random parts and ranges', async (t) => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
  t.comment(`seed ${seed}`)
  const below = random(seed)
  for (let round = 0; round < 300; round++) {
    const size = 1 + below(60)
    const kinds: boolean[] = []
    const parts: Part[] = []
    while (kinds.length < size) {
      const length = Math.min(1 + below(12), size - kinds.length)
      const zero = below(2) === 0
      parts.push({ start: kinds.length, length, zero })
      kinds.push(...new Array<boolean>(length).fill(zero))
    }
    const model = new Array<boolean>(size).fill(false)
    const record = await DoneRecord.open(path, about, [], async () => undefined)
    for (let count = below(8); count > 0; count--) {
      const start = below(size)
      const length = 1 + below(size - start)
      model.fill(true, start, start + length)
      await record.did({ start, length, zero: false })
    }
    await record.save()
    await record.close()
    const again = await DoneRecord.open(path, about, await rangesIn(path, about), async () => undefined)
    const missing = new Array<boolean | undefined>(size).fill(undefined)
    let end = 0
    for (const { start, length, zero } of again.missing(parts)) {
      if (start < end || length <= 0) t.fail(`not ascending in round ${round}`)
      end = start + length
      missing.fill(zero, start, end)
    }
    await again.close()
    const expected = kinds.map((zero, at) => (model[at] ? undefined : zero))
    if (missing.some((zero, at) => zero !== expected[at])) t.fail(`wrong in round ${round}`)
  }
})

t.test('a line that is cut off, and a record of another transfer, do not count', async (t) => {
  const record = await DoneRecord.open(path, about, [{ start: 0, length: 10 }], async () => undefined)
  await record.close()
  appendFileSync(path, '20 30\n50 4')
  t.strictSame(await rangesIn(path, about), [
    { start: 0, length: 10 },
    { start: 20, length: 30 },
  ])
  t.strictSame(await rangesIn(path, { ...about, size: 101 }), [])
  t.strictSame(await rangesIn(path, { ...about, more: 1 }), [])
  t.strictSame(await rangesIn(scratch.file('none'), about), [])
  writeFileSync(path, '\0\0\0')
  t.strictSame(await rangesIn(path, about), [])
})

t.test('what could not be made durable is never recorded', async (t) => {
  let works = true
  const record = await DoneRecord.open(path, about, [], async () => {
    if (!works) throw new Error('EIO')
  })
  await record.did({ start: 0, length: 10, zero: false })
  await record.save()
  works = false
  await record.did({ start: 10, length: 10, zero: false })
  await t.rejects(record.save(), { message: 'EIO' })
  works = true
  await record.did({ start: 20, length: 10, zero: false })
  await record.save()
  await record.close()
  t.strictSame(await rangesIn(path, about), [{ start: 0, length: 10 }])
  t.ok(existsSync(path))
})
