// SPDX-License-Identifier: Apache-2.0
// Overlays that are put on nodes in a transaction: all are there at one moment, or none was ever there, whatever writes wait.

import t, { type Test } from 'tap'
import { PERMISSIONS } from '../../../daemon/iothread/block/driver.js'
import { Buffers } from '../../../daemon/iothread/copy/buffers.js'
import { createImage } from '../../../daemon/iothread/jobs/create.js'
import { usualImage } from '../../../daemon/iothread/messages-create.js'
import type { TransactionStep } from '../../../daemon/iothread/messages-transaction.js'
import { Transactions } from '../../../daemon/iothread/transactions.js'
import { type TestGraph, testGraph } from '../../helpers/graph.js'
import { guestOf, turn } from '../../helpers/graph-jobs.js'

const MIB = 2 ** 20
const WRITER = { use: ['consistent read', 'write'], share: PERMISSIONS } as const
const NAMES = ['a', 'b'] as const

async function addOverlay(g: TestGraph, name: string): Promise<void> {
  await g.add({ driver: 'x-memory', 'node-name': `${name}-memory`, size: 0 })
  const options = usualImage(MIB)
  const file = `${name}-memory`
  const spec = { kind: 'create', driver: 'qcow2', file, dataFile: undefined, options } as const
  await createImage(g.graph, spec, new Buffers(g.engine), new AbortController().signal)
  await g.add({ driver: 'qcow2', 'node-name': name, file, backing: null })
}

/** Two disks that a guest uses, each below a filter that has its own, with an overlay ready for each. */
async function scene(t: Test, rules: readonly object[] = []) {
  const g = testGraph(t)
  for (const name of NAMES) {
    await g.add({ driver: 'x-memory', 'node-name': `${name}-store`, size: MIB })
    await g.add({ driver: 'x-inject', 'node-name': name, file: `${name}-store`, rules })
    await g.add({ driver: 'raw', 'node-name': `${name}-above`, file: name })
    await addOverlay(g, `${name}-overlay`)
  }
  const claims = await Promise.all(
    NAMES.map((name) => g.graph.claim('a guest', g.graph.node(name), WRITER, () => undefined)),
  )
  const { handlers } = new Transactions(
    g.graph,
    () => Promise.reject(new Error('no job')),
    () => undefined,
  )
  const overlays = NAMES.map((name) => ({ node: name, overlay: `${name}-overlay`, filter: `#${name}` }))
  const nodes = overlays.map(({ overlay }) => overlay)
  const quiesce = (...more: string[]) =>
    handlers['transaction-quiesce']({
      ...{ transaction: 1, nodes: [...nodes, ...more], bitmaps: [], overlays },
    })
  const step = (...steps: TransactionStep[]) => handlers['transaction-prepare']({ transaction: 1, steps })
  const prepare = (...more: TransactionStep[]) =>
    step(...NAMES.map((node) => ({ kind: 'overlay', node }) as const), ...more)
  const end = (commit: boolean) => handlers['transaction-end']({ transaction: 1, commit })
  /** With memory of its own, so that nobody waits for what another one waits for. */
  const on = (name: string) => guestOf(g, { node: g.graph.node(name) })
  /** Writes of the guest, and of who uses what lies above. */
  const write = (byte: number) =>
    Promise.all([
      ...claims.map((claim) => guestOf(g, claim).write(0, Buffer.alloc(512, byte))),
      ...NAMES.map((name) => on(`${name}-above`).write(512, Buffer.alloc(512, byte))),
    ])
  const bytes = (suffix: string) =>
    Promise.all(NAMES.flatMap((name) => [0, 512].map(async (at) => (await on(name + suffix).read(at, 1))[0])))
  const children = () =>
    NAMES.flatMap((name) => [
      g.reports.get(`${name}-overlay`)?.children.backing,
      g.reports.get(`${name}-above`)?.children.file,
    ])
  return { g, claims, quiesce, step, prepare, end, write, bytes, children }
}

const missing = { kind: 'bitmap', action: { kind: 'clear', node: 'a', name: 'zz' } } as const

t.test('all writes that waited go to the overlays when they are kept', async (t) => {
  const { g, claims, quiesce, prepare, end, write, bytes, children } = await scene(t)
  await write(1)
  await quiesce()
  const waiting = write(2)
  for (let turns = 0; turns < 20; turns++) await turn()
  await prepare()
  t.same(children(), [undefined, 'a', undefined, 'b'], 'nobody hears of it yet')
  await end(true)
  await waiting
  t.same(children(), ['a', 'a-overlay', 'b', 'b-overlay'])
  t.same(
    claims.map(({ node }) => node.name),
    ['a-overlay', 'b-overlay'],
  )
  t.same(await bytes('-store'), [1, 1, 1, 1])
  t.same(await bytes('-overlay'), [2, 2, 2, 2])
  t.notOk(g.reports.has('#a'))
  await write(3)
  t.same(await bytes('-store'), [1, 1, 1, 1])
  for (const claim of claims) await claim.release()
})

for (const failing of [true, false])
  t.test(
    failing ? 'a step that fails takes overlays away again' : 'so does who gives the transaction up',
    async (t) => {
      const { g, claims, quiesce, prepare, end, write, bytes, children } = await scene(t)
      await write(1)
      await quiesce()
      const waiting = write(2)
      for (let turns = 0; turns < 20; turns++) await turn()
      if (failing) await t.rejects(prepare(missing), { message: "Dirty bitmap 'zz' not found" })
      else await prepare()
      await end(false)
      await waiting
      t.same(children(), [undefined, 'a', undefined, 'b'])
      t.same(
        claims.map(({ node }) => node.name),
        ['a', 'b'],
      )
      t.same(await bytes('-store'), [2, 2, 2, 2])
      t.same(await bytes('-overlay'), [0, 0, 0, 0])
      t.notOk(g.reports.has('#a'))
      for (const name of NAMES) await g.graph.remove(`${name}-overlay`)
      await quiesce().catch(() => undefined)
      await end(false)
      await write(3)
      t.same(await bytes('-store'), [3, 3, 3, 3])
      for (const claim of claims) await claim.release()
    },
  )

for (const failing of [true, false])
  t.test(
    `what begins above an overlay that is taken away goes to the node: ${failing ? 'a step failed' : 'given up'}`,
    async (t) => {
      const { g, claims, quiesce, step, prepare, end, write, bytes } = await scene(t)
      await write(1)
      await quiesce()
      await prepare()
      const waiting = write(2)
      const reading = claims.map((claim) => guestOf(g, claim).read(0, 1))
      for (let turns = 0; turns < 20; turns++) await turn()
      if (failing) await t.rejects(step(missing), { message: "Dirty bitmap 'zz' not found" })
      await end(false)
      await waiting
      for (const [byte] of await Promise.all(reading))
        t.ok(byte === 1 || byte === 2, 'what was there, or what was written just then')
      t.same(await bytes('-store'), [2, 2, 2, 2])
      t.same(await bytes('-overlay'), [0, 0, 0, 0])
      for (const claim of claims) await claim.release()
    },
  )

t.test('nobody goes on before an overlay that is being put there was taken away again', async (t) => {
  const { g, claims, quiesce, prepare, end, write, bytes } = await scene(t)
  await write(1)
  await quiesce()
  const waiting = write(2)
  let go = () => {}
  const stuck = new Promise<void>((resolve) => {
    go = resolve
  })
  g.graph.node('a-overlay').driver.freshen = () => stuck
  const preparing = prepare()
  preparing.catch(() => undefined)
  for (let turns = 0; turns < 20; turns++) await turn()
  const ended = end(false)
  for (let turns = 0; turns < 20; turns++) await turn()
  t.same((await bytes('-store')).slice(0, 2), [1, 1], 'the first is stuck on its way')
  go()
  await t.rejects(preparing, { message: 'the transaction was given up' })
  await Promise.all([ended, waiting])
  t.same(await bytes('-store'), [2, 2, 2, 2])
  t.same(await bytes('-overlay'), [0, 0, 0, 0])
  for (const claim of claims) await claim.release()
})

t.test('a flush that is stuck holds nobody up once the transaction was given up', async (t) => {
  const { g, claims, quiesce, end, write, bytes } = await scene(t, [{ op: 'flush', count: 1, stall: true }])
  await write(1)
  const resting = t.rejects(quiesce(), { name: 'Cancelled' })
  for (let turns = 0; turns < 20; turns++) await turn()
  const waiting = write(2)
  await end(false)
  await Promise.all([resting, waiting])
  t.same(await bytes('-store'), [2, 2, 2, 2])
  for (const name of NAMES) g.graph.node(name).driver.release?.()
  for (const claim of claims) await claim.release()
})

t.test('a node below is part of the transaction too', async (t) => {
  const { claims, quiesce, prepare, end, write, bytes } = await scene(t)
  await write(1)
  await quiesce('a-store')
  await prepare()
  await end(true)
  await write(2)
  t.same(await bytes('-store'), [1, 1, 1, 1])
  for (const claim of claims) await claim.release()
})

for (const commit of [true, false])
  t.test(
    `a node above that is being removed meanwhile is in nobody's way when overlays are ${commit ? 'kept' : 'taken away'}`,
    async (t) => {
      const { g, claims, quiesce, prepare, end } = await scene(t)
      const write = (byte: number) =>
        Promise.all(claims.map((claim) => guestOf(g, claim).write(0, Buffer.alloc(512, byte))))
      const bytes = (suffix: string) =>
        Promise.all(
          NAMES.map(async (name) => (await guestOf(g, { node: g.graph.node(name + suffix) }).read(0, 1))[0]),
        )
      await write(1)
      await quiesce()
      await prepare()
      const removing = g.graph.remove('a-above')
      for (let turns = 0; turns < 20; turns++) await turn()
      await end(commit)
      await removing
      await write(2)
      t.same(await bytes('-store'), commit ? [1, 1] : [2, 2])
      t.same(await bytes('-overlay'), commit ? [2, 2] : [0, 0])
      t.equal(g.reports.get('b-above')?.children.file, commit ? 'b-overlay' : 'b')
      t.notOk(g.reports.has('a-above'))
      for (const claim of claims) await claim.release()
    },
  )
