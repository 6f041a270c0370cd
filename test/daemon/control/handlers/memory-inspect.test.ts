// SPDX-License-Identifier: Apache-2.0
// x-memory-inspect as programs have it: what is refused at once, and a job whose finding is in query-jobs.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Arguments } from '../../../../protocol/schema/index.js'
import { unpack } from '../../../helpers/migration/fixtures.js'
import { realDaemon } from '../real-daemon.js'

type Inspect = Arguments<'x-memory-inspect'>

const refused: { name: string; args: Partial<Inspect>; says: RegExp }[] = [
  { name: 'diff of one file', args: { what: 'diff' }, says: /'other' is missing/ },
  { name: 'info of two files', args: { other: '/b' }, says: /'other' is for diff and map, not for info/ },
  { name: 'checksums for map', args: { what: 'map', digests: '/d' }, says: /'digests' is for verify/ },
  { name: 'no cells', args: { what: 'map', cells: 0 }, says: /'cells' expects a value between 1 and 262144/ },
  { name: 'no name', args: { file: '' }, says: /Could not open '': No such file or directory/ },
  { name: 'a file that is not there', args: {}, says: /Could not open '\/none': No such file/ },
  { name: 'a folder', args: { file: '/' }, says: /neither a file nor a block device|Is a directory/ },
]

t.test('what makes no sense is refused and leaves no job', async (t) => {
  const daemon = realDaemon(t)
  for (const { name, args, says } of refused) {
    const all: Inspect = { 'job-id': 'j', what: 'info', file: '/none', ...args }
    await t.rejects(daemon.run('x-memory-inspect', all), says, name)
  }
  t.same(await daemon.run('query-jobs', {}), [])
})

t.test('what was found is in query-jobs until the job is dismissed', async (t) => {
  const daemon = realDaemon(t)
  const file = join(t.testdir({}), 'vm.mem')
  writeFileSync(file, unpack('q10-pc-q35-10.0-stopped.mapped'))
  await daemon.run('x-memory-inspect', { 'job-id': 'j', what: 'info', file })
  await daemon.until('j concluded')
  t.match(await daemon.run('query-jobs', {}), [
    { id: 'j', type: 'x-memory-inspect', 'x-result': { format: 'mapped-ram', complete: true } },
  ])
  await daemon.run('job-dismiss', { id: 'j' })
  t.same(await daemon.run('query-jobs', {}), [])
})
