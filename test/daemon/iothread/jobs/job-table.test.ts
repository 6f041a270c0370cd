// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import type { JobBody } from '../../../../daemon/iothread/jobs/body.js'
import { JobTable } from '../../../../daemon/iothread/jobs/job-table.js'

const REPORT = { read: 'report', write: 'report' } as const

/** A table, and a job that takes no heed of its signal while it is prepared. */
function scene() {
  const done: string[] = []
  const table = new JobTable(
    () => undefined,
    () => undefined,
  )
  const body: JobBody = {
    prepare: async () => {
      done.push('prepare')
    },
    run: async () => {
      done.push('run')
    },
    progress: () => ({ offset: 0, len: 0, busy: false, activelySynced: false }),
    receipt: () => ({
      ...({ copied: 0, zeroed: 0, skipped: 0, flush: 'not-reached' } as const),
      durations: { probe: 0, bulk: 0, converge: 0, drain: 0, flush: 0 },
    }),
    finalize: async (commit) => {
      done.push(commit ? 'commit' : 'undo')
    },
  }
  const start = () => table.start('job0', () => body, REPORT)
  return { table, body, done, start }
}

t.test('a job is cancelled while something else is done for its start', async (t) => {
  const { table, done, start } = scene()
  let go = () => {}
  const stuck = new Promise<void>((resolve) => {
    go = resolve
  })
  const starting = table.expect('job0', async () => {
    await stuck
    await start()
  })
  table.handlers['job-cancel']({ id: 'job0' })
  go()
  await t.rejects(starting, { message: 'Operation canceled' })
  t.notOk(done.includes('run'))
  t.equal(table.size, 0)
  t.throws(() => table.handlers['job-cancel']({ id: 'job0' }), { message: 'Job not found' })
})

t.test('a job that was cancelled while it was prepared never runs, whether or not it looked', async (t) => {
  const { table, body, done, start } = scene()
  const prepare = body.prepare?.bind(body)
  body.prepare = async () => {
    await prepare?.()
    table.handlers['job-cancel']({ id: 'job0' })
  }
  await t.rejects(start(), { message: 'Operation canceled' })
  t.same(done, ['prepare', 'undo'])
  t.equal(table.size, 0)
})
