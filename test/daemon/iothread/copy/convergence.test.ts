// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import t from 'tap'
import { ConvergenceMeter, isBehind, judge } from '../../../../daemon/iothread/copy/convergence.js'
import { DirtiedChunks } from '../../../../daemon/iothread/copy/dirtied-chunks.js'
import { holds } from '../../../helpers/property.js'

const MIB = 2 ** 20

const verdicts = [
  { name: 'nothing left', dirty: 50, copy: 0, left: 0, verdict: 'converging' },
  { name: 'nobody writes', dirty: 0, copy: 100, left: 1000, verdict: 'converging' },
  { name: 'a slow writer', dirty: 80, copy: 100, left: 1000, verdict: 'converging' },
  { name: 'as fast as the copy', dirty: 100, copy: 100, left: 1000, verdict: 'stalled' },
  { name: 'a little faster', dirty: 105, copy: 100, left: 1000, verdict: 'stalled' },
  { name: 'a little slower', dirty: 95, copy: 100, left: 1000, verdict: 'stalled' },
  { name: 'faster', dirty: 130, copy: 100, left: 1000, verdict: 'diverging' },
  { name: 'the target does not answer, nobody writes', dirty: 0, copy: 0, left: 1000, verdict: 'stalled' },
  { name: 'the target does not answer', dirty: 1, copy: 0, left: 1000, verdict: 'diverging' },
  { name: 'faster, but what is left is soon copied', dirty: 130, copy: 100, left: 25, verdict: 'converging' },
  { name: 'and not quite', dirty: 130, copy: 100, left: 26, verdict: 'diverging' },
]
for (const { name, dirty, copy, left, verdict } of verdicts)
  t.test(`${name}: ${verdict}`, async (t) => {
    t.equal(judge(dirty, copy, left), verdict)
  })

const courtesies = [
  { name: 'nobody writes', dirty: 0, copy: 100, left: 1000, behind: false },
  { name: 'half of what is copied', dirty: 50, copy: 100, left: 1000, behind: false },
  { name: 'more than half', dirty: 51, copy: 100, left: 1000, behind: true },
  { name: 'more, but what is left is soon copied', dirty: 130, copy: 100, left: 25, behind: false },
  { name: 'and not quite', dirty: 130, copy: 100, left: 26, behind: true },
]
for (const { name, dirty, copy, left, behind } of courtesies)
  t.test(`${name}: a copy ${behind ? 'should' : 'need not'} be faster`, async (t) => {
    t.equal(isBehind(dirty, copy, left), behind)
  })

/** Looks twice a second; rates in MiB/s for so many seconds each. @returns verdicts as they change, with the time of each */
function story(phases: readonly { seconds: number; dirty: number; copy: number; left: number }[]): string[] {
  const meter = new ConvergenceMeter()
  const told: string[] = []
  let [at, done, dirtied, last] = [70_000, 0, 0, '']
  const look = (remaining: number) => {
    meter.look(at, { done, dirtied, written: dirtied, remaining: remaining * MIB })
    const { verdict } = meter.state
    if (verdict !== last) told.push(`${(at - 70_000) / 1000} ${verdict}`)
    last = verdict
  }
  look(phases[0]?.left ?? 0)
  for (const { seconds, dirty, copy, left } of phases)
    for (let looks = 0; looks < seconds * 2; looks++) {
      at += 500
      done += (copy * MIB) / 2
      dirtied += (dirty * MIB) / 2
      look(left)
    }
  return told
}

t.test('there is no verdict before a second, and then at once', async (t) => {
  t.same(story([{ seconds: 3, dirty: 50, copy: 20, left: 100 }]), ['0 unknown', '1 diverging'])
})

t.test('a writer that becomes too fast is seen within three seconds, and so is its end', async (t) => {
  const phases = [
    { seconds: 10, dirty: 0, copy: 20, left: 100 },
    { seconds: 10, dirty: 40, copy: 20, left: 100 },
    { seconds: 10, dirty: 0, copy: 20, left: 100 },
  ]
  t.same(story(phases), ['0 unknown', '1 converging', '12 diverging', '22 converging'])
})

t.test('one odd look changes nothing', async (t) => {
  const phases = [
    { seconds: 5, dirty: 0, copy: 20, left: 100 },
    { seconds: 0.5, dirty: 1000, copy: 20, left: 100 },
    { seconds: 1.5, dirty: 0, copy: 20, left: 1 },
    { seconds: 5, dirty: 0, copy: 20, left: 100 },
  ]
  t.same(story(phases), ['0 unknown', '1 converging'])
})

t.test('the rates are those of the last two seconds', async (t) => {
  const meter = new ConvergenceMeter()
  const looks = [0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]
  for (const at of looks) {
    const fast = Math.max(0, at - 2000)
    meter.look(at, { done: at + 9 * fast, dirtied: 2 * at, written: at / 2, remaining: MIB })
  }
  t.match(meter.state, { dirtyRate: 2000, copyRate: 10_000 })
  t.equal(meter.writeRate, 500)
})

t.test('a job that stood still begins anew', async (t) => {
  const meter = new ConvergenceMeter()
  t.ok(meter.due(0))
  for (const at of [0, 500, 1000]) meter.look(at, { done: at, dirtied: 0, written: 0, remaining: MIB })
  t.equal(meter.state.verdict, 'converging')
  t.notOk(meter.due(1400))
  t.ok(meter.due(1500))
  meter.reset()
  t.same(meter.state, { verdict: 'unknown', dirtyRate: 0, copyRate: 0 })
  t.ok(meter.due(1400))
})

t.test('chunks are counted once a look, as a set of them does', async (t) => {
  const changes = fc.array(
    fc.record({ offset: fc.nat(100_000), length: fc.integer({ min: 1, max: 20_000 }) }),
  )
  holds(
    t,
    fc.property(changes, changes, (first, second) => {
      const chunks = new DirtiedChunks(4096)
      for (const part of [first, second]) {
        const model = new Set<number>()
        for (const { offset, length } of part) {
          chunks.mark(offset, length)
          for (let at = offset; at < offset + length; at++) model.add(Math.floor(at / 4096))
        }
        if (chunks.take() !== model.size * 4096) return false
      }
      return chunks.take() === 0
    }),
    50,
  )
})

t.test('a long change is not counted chunk by chunk', async (t) => {
  const chunks = new DirtiedChunks(512)
  chunks.mark(0, 2 ** 52)
  t.equal(chunks.take(), 2 ** 52)
})
