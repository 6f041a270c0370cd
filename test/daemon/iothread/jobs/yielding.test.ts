// SPDX-License-Identifier: Apache-2.0
// Jobs that are not to yield to guests do not. That others do is tested with Courtesy, under a clock of its own.
import t from 'tap'
import { testGraph } from '../../../helpers/graph.js'
import { GraphJobs, turn } from '../../../helpers/graph-jobs.js'
import { backupSpec, mirrorSpec } from '../../../helpers/iothread.js'

const MIB = 2 ** 20
const SIZE = 8 * MIB

const jobs = [
  { name: 'a mirror that does not yield', spec: mirrorSpec({ yielding: false }) },
  { name: 'a mirror with write-blocking', spec: mirrorSpec({ copyMode: 'write-blocking' }) },
  { name: 'a backup that does not yield', spec: backupSpec({ yielding: false }) },
]
for (const { name, spec } of jobs)
  t.test(`${name} has all in flight beside a guest`, async (t) => {
    const g = testGraph(t)
    for (const node of ['src', 'dst-memory'])
      await g.add({ driver: 'x-memory', 'node-name': node, size: SIZE })
    const rules = [{ op: 'write', count: 0, stall: true }]
    await g.add({ driver: 'x-inject', 'node-name': 'dst', file: 'dst-memory', rules })
    const source = g.graph.node('src')
    for (let at = 0; at < SIZE; at += MIB) await g.write(source, at, Buffer.alloc(MIB, 1))
    const table = new GraphJobs(g)
    await table.start('j', spec)
    while (source.stats.readBytes < SIZE) {
      g.graph.guests.seen()
      await turn()
    }
    t.equal(g.graph.node('dst-memory').stats.writes, 0)
    g.graph.node('dst').driver.release?.()
    await table.report(spec.kind === 'mirror' ? 'job-ready' : 'job-ended', 'j')
    if (spec.kind === 'mirror') {
      await table.verbs['job-complete']({ id: 'j', pivot: false })
      await table.report('job-ended', 'j')
    }
    await table.verbs['job-finalize']({ id: 'j', commit: true })
  })
