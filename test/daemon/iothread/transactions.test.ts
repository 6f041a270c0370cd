// SPDX-License-Identifier: Apache-2.0
// A worker's part of transactions: what rests, what is kept or undone, and what is told when something fails.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IoError } from '../../../daemon/errors.js'
import type { PreparedJob } from '../../../daemon/iothread/jobs/job-table.js'
import type { JobSpec } from '../../../daemon/iothread/messages.js'
import { Transactions } from '../../../daemon/iothread/transactions.js'
import { type TestGraph, testGraph } from '../../helpers/graph.js'
import { turn } from '../../helpers/graph-jobs.js'
import { backupSpec } from '../../helpers/iothread.js'
import { installed } from '../../helpers/program.js'
import { storedBitmaps } from '../../helpers/stored-bitmaps.js'

const MIB = 1 << 20
const EIO = 5
const skip = installed('qemu-img') ? false : 'no qemu-img'

/** Transactions on a graph, with jobs of the test's. */
function transactions(g: TestGraph, jobs: Readonly<Record<string, PreparedJob>> = {}) {
  const prepare = async (id: string, _spec: JobSpec): Promise<PreparedJob> => {
    const job = jobs[id]
    if (job === undefined) throw new Error(`no job ${id}`)
    return job
  }
  const log: string[] = []
  const { handlers } = new Transactions(g.graph, prepare, (level, { node }, text) =>
    log.push(`${level} ${node}: ${text}`),
  )
  return { handlers, log }
}

async function addBitmaps(g: TestGraph, node: string, names: readonly string[], persistent: boolean) {
  const add = { kind: 'add', node, granularity: 65536, persistent, recording: true } as const
  await g.graph.bitmaps.change(names.map((name) => ({ ...add, name })))
}

async function addImage(t: Test, g: TestGraph): Promise<string> {
  const filename = join(t.testdir(), 'image')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', filename, String(4 * MIB)])
  const file = { driver: 'file', 'node-name': 'file', filename }
  await g.add({ driver: 'qcow2', 'node-name': 'image', file, backing: null })
  return filename
}

t.test('nodes above one another rest, in whatever order they are named', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'below', size: MIB })
  const rules = [{ op: 'write', 'delay-ms': 30 }]
  const above = await g.add({ driver: 'x-inject', 'node-name': 'above', file: 'below', rules })
  const { handlers } = transactions(g)
  const writing = g.write(above, 0, Buffer.alloc(512, 7))
  await turn()
  const nodes = ['below', 'above']
  await handlers['transaction-quiesce']({ transaction: 1, nodes, bitmaps: [], overlays: [] })
  await writing
  let written = false
  const later = g.write(above, 0, Buffer.alloc(512, 8)).then(() => {
    written = true
  })
  for (let turns = 0; turns < 20; turns++) await turn()
  t.notOk(written, 'who comes then waits')
  await handlers['transaction-end']({ transaction: 1, commit: true })
  await later
})

t.test(
  'a bitmap that cannot be taken out of its image is told in the log only, and goes when that is released',
  { skip },
  async (t) => {
    const g = testGraph(t)
    const filename = await addImage(t, g)
    const names = ['a', 'b']
    await addBitmaps(g, 'image', names, true)
    let started = 0
    const job = { start: async () => void started++, undo: async () => void t.fail('undone') }
    const { handlers, log } = transactions(g, { j: job })
    const bitmaps = names.map((name) => ({ node: 'image', name }))
    await handlers['transaction-quiesce']({ transaction: 1, nodes: ['image'], bitmaps, overlays: [] })
    const remove = (name: string) =>
      ({ kind: 'bitmap', action: { kind: 'remove', node: 'image', name } }) as const
    const steps = [...names.map(remove), { kind: 'job', id: 'j', spec: backupSpec() } as const]
    await handlers['transaction-prepare']({ transaction: 1, steps })
    const { driver } = g.graph.node('file')
    const write = driver.write.bind(driver)
    driver.write = async (offset, from) => {
      driver.write = write
      throw new IoError(EIO, 'write', 'file', offset, from.length)
    }
    t.equal(await handlers['transaction-end']({ transaction: 1, commit: true }), null)
    t.equal(started, 1)
    t.strictSame(log, ['error image: a removed bitmap is in its image until that is released'])
    t.strictSame(g.graph.node('image').bitmaps.all(), [], 'here both are gone')
    await g.graph.remove('image')
    t.strictSame(storedBitmaps(filename), {})
  },
)

t.test('whatever is in the way of undoing, all is undone, and the first failure is told', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'disk', size: MIB })
  const undone: string[] = []
  const job = (id: string, fails: boolean): PreparedJob => ({
    start: async () => void t.fail('started'),
    undo: async () => {
      undone.push(id)
      if (fails) throw new IoError(EIO, 'write', id)
    },
  })
  const { handlers } = transactions(g, { one: job('one', false), two: job('two', true) })
  await handlers['transaction-quiesce']({ transaction: 1, nodes: ['disk'], bitmaps: [], overlays: [] })
  const jobs = ['one', 'two'].map((id) => ({ kind: 'job', id, spec: backupSpec() }) as const)
  const missing = { kind: 'bitmap', action: { kind: 'clear', node: 'disk', name: 'zz' } } as const
  const preparing = handlers['transaction-prepare']({ transaction: 1, steps: [...jobs, missing] })
  await t.rejects(preparing, { message: "Dirty bitmap 'zz' not found" })
  t.strictSame(undone, ['two', 'one'])
  await handlers['transaction-end']({ transaction: 1, commit: false })
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(512))
})
