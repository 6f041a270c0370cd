// SPDX-License-Identifier: Apache-2.0
// Bitmaps that are stored in the images of a chain which a job shortens, as qemu-img sees them then.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { testGraph } from '../../../helpers/graph.js'
import { GraphJobs } from '../../../helpers/graph-jobs.js'
import { installed } from '../../../helpers/program.js'

const MIB = 2 ** 20
const CLUSTER = 65536
const skip = installed('qemu-img') ? false : 'no qemu-img'

function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8' })
}

function storedBitmaps(path: string): unknown {
  const info = JSON.parse(qemuImg('info', '--output=json', path))
  return info['format-specific'].data.bitmaps
}

/** Three images, the one in the middle with data; the others have a bitmap. */
async function chain(dir: string) {
  const path = (name: string) => join(dir, `${name}.qcow2`)
  qemuImg('create', '-q', '-f', 'qcow2', path('base'), String(4 * MIB))
  qemuImg('create', '-q', '-f', 'qcow2', '-b', path('base'), '-F', 'qcow2', path('mid'))
  qemuImg('create', '-q', '-f', 'qcow2', '-b', path('mid'), '-F', 'qcow2', path('top'))
  execFileSync('qemu-io', ['-c', 'write -P 7 1M 64k', path('mid')])
  for (const name of ['base', 'top']) qemuImg('bitmap', '--add', path(name), 'b')
  const layer = (name: string, backing: unknown, readOnly: boolean) => ({
    ...{ driver: 'qcow2', 'node-name': name, 'read-only': readOnly, backing },
    file: { driver: 'file', 'node-name': `${name}-file`, filename: path(name) },
  })
  return {
    path,
    base: layer('base', null, true),
    mid: layer('mid', 'base', true),
    top: layer('top', 'mid', false),
  }
}

for (const kind of ['commit', 'stream'] as const)
  t.test(
    `a ${kind} keeps the bitmaps of the images that stay, and marks what it writes`,
    { skip },
    async (t) => {
      const { path, base, mid, top } = await chain(t.testdir({}))
      const g = testGraph(t)
      const jobs = new GraphJobs(g)
      for (const spec of [base, mid, top]) await g.add(spec)
      const how = {
        backing: { name: path('base'), format: 'qcow2' },
        speed: 0,
        onError: 'report',
        yielding: true,
        filter: { name: '#filter', below: kind === 'commit' ? 'mid' : 'top' },
      } as const
      if (kind === 'commit') await jobs.start('j', { kind, overlay: 'top', top: 'mid', base: 'base', ...how })
      else await jobs.start('j', { kind, node: 'top', base: 'base', ...how })
      t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'success' })
      await jobs.verbs['job-finalize']({ id: 'j', commit: true })
      for (const name of ['top', 'mid', 'base']) await g.graph.remove(name)

      const written = kind === 'commit' ? 'base' : 'top'
      for (const name of ['base', 'top']) {
        t.match(storedBitmaps(path(name)), [{ name: 'b', flags: ['auto'], granularity: CLUSTER }], name)
        qemuImg('check', '-q', path(name))
      }
      await g.add(base)
      const opened = await g.add({ ...top, backing: 'base' })
      t.equal((await g.read(opened, MIB, 1))[0], 7)
      for (const name of ['base', 'top']) {
        const dirty = g.graph
          .node(name)
          .bitmaps.get('b')
          .bits.nextDirty(0, 4 * MIB)
        t.same(dirty, name === written ? { offset: MIB, length: CLUSTER } : undefined, name)
      }
    },
  )
