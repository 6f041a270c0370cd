// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { Budgets } from '../../../daemon/control/budgets.js'
import { scriptedDaemon } from './scripted-daemon.js'
import { progress, receipt } from './scripted-worker.js'

/** A budget of 1000 bytes a second, a clock, and seats that keep what they were sent. */
function setUp() {
  const bandwidths = new Map([['b', 1000]])
  const clock = { now: 50_000 }
  const budgets = new Budgets(
    (id) => bandwidths.get(id),
    () => clock.now,
  )
  const seat = () => {
    const sent: number[] = []
    const one = budgets.join('b')
    sent.push(one.start((share) => sent.push(share)))
    return { one, sent }
  }
  return { budgets, bandwidths, clock, seat }
}

t.test('shares are handed out anew when jobs come and go, and the bandwidth changes', async (t) => {
  const { budgets, bandwidths, seat } = setUp()
  const a = seat()
  const b = seat()
  t.same([a.sent, b.sent], [[1000, 500], [500]])
  bandwidths.set('b', 3000)
  budgets.divide('b')
  b.one.leave()
  t.same(
    [a.sent, b.sent],
    [
      [1000, 500, 1500, 3000],
      [500, 1500],
    ],
  )
  bandwidths.set('b', 0)
  budgets.divide('b')
  t.equal(a.sent.at(-1), 0)
})

t.test('a job that does not use its share leaves it to the others until it does', async (t) => {
  const { clock, seat } = setUp()
  const a = seat()
  const b = seat()
  let [doneA, doneB] = [0, 0]
  const second = (useA: number, useB: number) => {
    clock.now += 1000
    doneA += useA
    doneB += useB
    a.one.used(doneA)
    b.one.used(doneB)
  }
  second(500, 0)
  second(500, 80)
  second(500, 80)
  t.same([a.one.share, b.one.share], [900, 100])
  second(900, 100)
  second(900, 100)
  t.same([a.one.share, b.one.share], [500, 500])
})

t.test('reports in between change nothing', async (t) => {
  const { clock, seat } = setUp()
  const a = seat()
  const b = seat()
  for (let turn = 0; turn < 4; turn++) {
    clock.now += 100
    a.one.used(50 * turn)
    b.one.used(0)
  }
  t.same([a.sent, b.sent], [[1000, 500], [500]])
})

t.test('who gets less is told before who gets more', async (t) => {
  const { budgets } = setUp()
  const told: string[] = []
  const seat = (name: string) => {
    const one = budgets.join('b')
    one.start((share) => told.push(`${name} ${share}`))
    return one
  }
  const a = seat('a')
  seat('b')
  a.leave()
  const third = budgets.join('b')
  third.start(() => {})
  t.same(told, ['a 500', 'b 1000', 'b 500'])
})

t.test('a name is in use from when a job asked for it until it left', async (t) => {
  const { budgets } = setUp()
  t.throws(() => budgets.join('nosuch'), { message: "Budget 'nosuch' does not exist" })
  const seat = budgets.join('b')
  t.ok(budgets.inUse('b'))
  seat.leave()
  seat.leave()
  t.notOk(budgets.inUse('b'))
})

const disk = (name: string) =>
  ({ driver: 'raw', 'node-name': name, file: { driver: 'file', filename: `/${name}` } }) as const

t.test('mirrors in several workers share a budget, and it stays while one of them runs', async (t) => {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b', 'c', 'd']) await daemon.run('blockdev-add', disk(name))
  const add = (bandwidth: number) =>
    daemon.run('object-add', { 'qom-type': 'x-budget', id: 'wan', bandwidth })
  await t.rejects(add(-1), { message: "Parameter 'bandwidth' expects a non-negative value" })
  await add(1000)
  const mirror = (id: string, device: string, target: string, budget = 'wan') =>
    daemon.run('blockdev-mirror', { 'job-id': id, device, target, sync: 'full', 'x-budget': budget })
  await t.rejects(mirror('x', 'a', 'b', 'lan'), { message: "Budget 'lan' does not exist" })
  await mirror('j', 'a', 'b')
  await mirror('k', 'c', 'd')
  const asked = (name: string) =>
    daemon.workers.flatMap((worker) => worker.asked).flatMap((one) => (one.name === name ? [one.args] : []))
  t.match(asked('job-start'), [
    { id: 'j', share: 1000 },
    { id: 'k', share: 500 },
  ])
  t.same(asked('job-set-share'), [{ id: 'j', share: 500 }])
  t.match(await daemon.run('query-jobs', {}), [
    { id: 'k', 'x-budget': 'wan', 'x-share': 500 },
    { id: 'j', 'x-budget': 'wan', 'x-share': 500 },
  ])
  const set = (value: unknown) =>
    daemon.run('qom-set', { path: '/objects/wan', property: 'bandwidth', value } as never)
  await set(3000)
  t.same(asked('job-set-share').slice(1), [
    { id: 'j', share: 1500 },
    { id: 'k', share: 1500 },
  ])
  await t.rejects(set(-1), { message: "Parameter 'bandwidth' expects a non-negative value" })
  await t.rejects(set('fast'), { message: "Invalid parameter type for 'bandwidth', expected: integer" })
  t.equal(await daemon.run('qom-get', { path: '/objects/wan', property: 'bandwidth' }), 3000)
  const end = (id: string) => {
    for (const worker of daemon.workers)
      worker.say({
        kind: 'job-ended',
        id,
        progress: progress(1, 64),
        outcome: { kind: 'cancelled' },
        receipt,
      })
  }
  end('k')
  t.same(daemon.workers[0]?.asked.at(-1)?.args, { id: 'j', share: 3000 })
  await t.rejects(daemon.run('object-del', { id: 'wan' }), {
    message: "object 'wan' is in use, can not be deleted",
  })
  end('j')
  await daemon.run('object-del', { id: 'wan' })
})

t.test('a mirror that is refused late leaves its budget', async (t) => {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b']) await daemon.run('blockdev-add', disk(name))
  await daemon.run('object-add', { 'qom-type': 'x-budget', id: 'wan', bandwidth: 1000 })
  daemon.script = (_worker, name) => {
    if (name === 'job-start') throw new Error('no')
  }
  const mirror = { 'job-id': 'j', device: 'a', target: 'b', sync: 'full', 'x-budget': 'wan' } as const
  await t.rejects(daemon.run('blockdev-mirror', mirror), { message: 'no' })
  await daemon.run('object-del', { id: 'wan' })
})

t.test('a backup of a transaction gets its share when it runs', async (t) => {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b']) await daemon.run('blockdev-add', disk(name))
  await daemon.run('object-add', { 'qom-type': 'x-budget', id: 'wan', bandwidth: 1000 })
  daemon.script = (worker, name) => {
    if (name === 'transaction-end') worker.say({ kind: 'job-running', id: 'j', progress: progress(0, 64) })
  }
  const data = { 'job-id': 'j', device: 'a', target: 'b', sync: 'full', 'x-budget': 'wan' } as const
  await daemon.run('transaction', { actions: [{ type: 'blockdev-backup', data }] } as never)
  const asked = daemon.workers.flatMap((worker) => worker.asked)
  t.same(
    asked.filter(({ name }) => name === 'job-set-share').map(({ args }) => args),
    [{ id: 'j', share: 1000 }],
  )
})
