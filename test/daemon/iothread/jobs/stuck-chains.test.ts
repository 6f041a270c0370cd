// SPDX-License-Identifier: Apache-2.0
// Jobs on chains with a request that does not end: a start that waits for it is cancelled, an end that does gives up, and
// nothing has changed then.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../daemon/iothread/block/node.js'
import type { ChainSpec } from '../../../../daemon/iothread/messages-chain.js'
import { testGraph } from '../../../helpers/graph.js'
import { GraphJobs, turn } from '../../../helpers/graph-jobs.js'
import { mirrorSpec } from '../../../helpers/iothread.js'
import { installed } from '../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const NAMES = ['base', 'mid', 'top'] as const

/** Images one above the other, the lowest first; only the last is writable. */
async function chain(t: Test) {
  const g = testGraph(t)
  const dir = t.testdir({})
  for (const [index, name] of NAMES.entries()) {
    const below = NAMES[index - 1]
    const backing = below === undefined ? [] : ['-b', join(dir, below), '-F', 'qcow2']
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, join(dir, name), '1M'])
    await g.add({
      ...{ driver: 'qcow2', 'node-name': name, backing: below ?? null, 'read-only': name !== 'top' },
      file: { driver: 'file', 'node-name': `${name}-file`, filename: join(dir, name) },
    })
  }
  /** A request that is under way until this is called. */
  const stick = (name: string): (() => void) => {
    let go = () => {}
    const stuck = new Promise<void>((resolve) => {
      go = resolve
    })
    void g.graph.node(name).withDriver(() => stuck)
    return go
  }
  return { g, dir, jobs: new GraphJobs(g), stick }
}

/** Answers when requests of the node wait. */
async function held(node: BlockNode): Promise<undefined> {
  for (let waits = false; !waits; ) {
    waits = true
    void node.status(0, 512).then(() => {
      waits = false
    })
    for (let turns = 0; turns < 5; turns++) await turn()
  }
}

const pass = { speed: 0, onError: 'report', yielding: true } as const
const commit: ChainSpec = {
  ...{ kind: 'commit', overlay: 'top', top: 'mid', base: 'base', ...pass },
  ...{ filter: { name: '#f', below: 'mid' }, backing: { name: 'base', format: 'qcow2' } },
}
const stream: ChainSpec = {
  ...{ kind: 'stream', node: 'mid', base: undefined, backing: undefined, ...pass },
  filter: { name: '#f', below: 'mid' },
}
const active = mirrorSpec({ source: 'top', target: 'base', filter: '#f', commit: true })

for (const { name, spec, stuck } of [
  { name: 'commit', spec: commit, stuck: 'base' },
  { name: 'commit of an active image', spec: active, stuck: 'base' },
  { name: 'stream', spec: stream, stuck: 'mid' },
])
  t.test(`a ${name} whose start waits for a stuck request is cancelled`, { skip }, async (t) => {
    const { g, jobs, stick } = await chain(t)
    const go = stick(stuck)
    const starting = jobs.start('j', spec)
    starting.catch(() => undefined)
    const node = g.graph.node(stuck)
    // Whoever comes now waits behind the drain that waits for the other one.
    const early = await Promise.race([held(node), starting.then(() => 'it started')])
    t.equal(early, undefined)
    jobs.verbs['job-cancel']({ id: 'j' })
    await t.rejects(starting, { message: 'Operation canceled' })
    await node.status(0, 512)
    t.ok(node.readOnly, 'nothing was changed')
    t.notOk(g.reports.has('#f'))
    go()
    await jobs.start('j', spec)
    t.notOk(node.readOnly)
    await jobs.report(spec.kind === 'mirror' ? 'job-ready' : 'job-ended', 'j')
    if (spec.kind === 'mirror') jobs.verbs['job-complete']({ id: 'j', pivot: false })
    await jobs.report('job-ended', 'j')
    await jobs.verbs['job-finalize']({ id: 'j', commit: false })
    t.ok(node.readOnly)
  })

t.test('an image that a job wrote stays writable while a request of it is stuck', { skip }, async (t) => {
  const { g, stick } = await chain(t)
  const [mid, file] = [g.graph.node('mid'), g.graph.node('mid-file')]
  const { signal } = new AbortController()
  const access = await g.graph.makeWritable(mid, signal, 5)
  const go = stick('mid')
  await access.restore()
  t.same([mid.readOnly, file.readOnly], [false, false])
  t.same(g.log, ['warn mid: node stays writable: a request of it does not end'])
  await mid.status(0, 512)
  await g.write(mid, 0, Buffer.alloc(512, 7))
  go()
  await access.restore()
  t.notOk(mid.readOnly, 'nobody makes it read-only any more')
})

t.test('an image with a stuck request stays above the one it is above', { skip }, async (t) => {
  const { g, dir, stick } = await chain(t)
  const [top, base] = [g.graph.node('top'), g.graph.node('base')]
  const go = stick('top')
  const name = { name: join(dir, 'base'), format: 'qcow2' }
  await t.rejects(g.graph.surgery.rebase(top, base, name, [], 5), {
    message: "node 'top' did not come to rest within 0.005 s; nothing was changed",
  })
  await top.status(0, 512)
  const backing = () =>
    JSON.parse(
      execFileSync('qemu-img', ['info', '-U', '--output=json', join(dir, 'top')], { encoding: 'utf8' }),
    )['backing-filename']
  t.equal(backing(), join(dir, 'mid'))
  t.equal(top.driver.backing?.name, 'mid')
  go()
  await g.graph.surgery.rebase(top, base, name, [], 5000)
  t.equal(backing(), join(dir, 'base'))
  t.equal(top.driver.backing?.name, 'base')
})
