// SPDX-License-Identifier: Apache-2.0
// Overlays, commits and streams below a guest that writes all the time: whatever is paused, cancelled or completed when, the
// guest must not see it, and what is on the disk in the end is what it wrote, as qemu-img reads it. Prints its seed; SEED=n
// repeats it.

import { execFileSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Claim } from '../../../../daemon/iothread/block/claims.js'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import { appendOverlay } from '../../../../daemon/iothread/jobs/overlay.js'
import type { NodeSpec } from '../../../../daemon/iothread/messages.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, guestOf, turn } from '../../../helpers/graph-jobs.js'
import { mirrorSpec } from '../../../helpers/iothread.js'
import { installed } from '../../../helpers/program.js'
import { BLOCK, StampedDisk } from '../../../helpers/stamped-disk.js'

type Below = (below: number) => number

const skip = installed('qemu-img') ? false : 'no qemu-img'
const BLOCKS = 1024
const STEPS = 24
const LAYOUTS = [
  'cluster_size=4096',
  'cluster_size=65536',
  'cluster_size=65536,extended_l2=on',
  'compat=0.10,cluster_size=16384',
  'cluster_size=2M',
]

interface Layer {
  readonly name: string
  readonly path: string
  readonly format: 'raw' | 'qcow2'
}

class Chain {
  /** The base first. */
  layers: Layer[] = []
  readonly #g: TestGraph
  readonly #jobs: GraphJobs
  readonly #dir: string
  readonly #below: Below
  #made = 0
  #jobsMade = 0

  constructor(g: TestGraph, jobs: GraphJobs, dir: string, below: Below) {
    this.#g = g
    this.#jobs = jobs
    this.#dir = dir
    this.#below = below
  }

  at(index: number): Layer {
    const layer = this.layers.at(index)
    if (layer === undefined) throw new Error(`no layer ${index}`)
    return layer
  }

  #spec({ name, path, format }: Layer, backing: string | null, more: object = {}): NodeSpec {
    const file = { driver: 'file', 'node-name': `${name}-file`, filename: path, discard: 'unmap' }
    const rules = [{ op: 'write', nth: 1 + this.#below(30), count: 1 + this.#below(20), 'delay-ms': 1 }]
    const slow = { driver: 'x-inject', 'node-name': `${name}-slow`, file, rules, discard: 'unmap' }
    const below = format === 'qcow2' ? { backing } : {}
    return { driver: format, 'node-name': name, discard: 'unmap', file: slow, ...below, ...more }
  }

  async base(format: 'raw' | 'qcow2'): Promise<void> {
    const path = join(this.#dir, 'base')
    if (format === 'raw') writeFileSync(path, '')
    if (format === 'raw') truncateSync(path, BLOCKS * BLOCK)
    else qemuImg('create', '-q', '-f', 'qcow2', path, String(BLOCKS * BLOCK))
    this.layers = [{ name: 'n0', path, format }]
    await this.#g.add(this.#spec(this.at(0), null))
  }

  async overlay(): Promise<void> {
    const below = this.at(-1)
    const number = ++this.#made
    const path = join(this.#dir, `${number}.qcow2`)
    const layout = LAYOUTS[this.#below(LAYOUTS.length)] ?? ''
    const backing = ['-b', below.path, '-F', below.format]
    qemuImg('create', '-q', '-f', 'qcow2', '-o', layout, ...backing, path, String(BLOCKS * BLOCK))
    const layer: Layer = { name: `n${number}`, path, format: 'qcow2' }
    const node = await this.#g.add(this.#spec(layer, null))
    await appendOverlay(this.#g.graph, this.#g.graph.node(below.name), node, `append${number}`)
    this.layers.push(layer)
  }

  /** What is below the active image may be opened for reading only. */
  async freeze(): Promise<void> {
    const index = this.#below(this.layers.length - 1)
    const layer = this.at(index)
    const backing = index === 0 ? null : this.at(index - 1).name
    await this.#g.graph.reopen([this.#spec(layer, backing, { 'read-only': true })])
  }

  async #pauses(id: string): Promise<void> {
    for (let left = this.#below(3); left > 0; left--) {
      for (let wait = this.#below(60); wait > 0; wait--) await turn()
      await this.#verb('job-pause', id)
      for (let wait = this.#below(60); wait > 0; wait--) await turn()
      await this.#verb('job-resume', id)
    }
  }

  /** A job that is over has no verbs. */
  async #verb(name: 'job-pause' | 'job-resume' | 'job-cancel', id: string): Promise<void> {
    try {
      await this.#jobs.verbs[name]({ id })
    } catch {
      return
    }
  }

  /** @returns whether it was applied */
  async #end(t: Test, id: string, forced: boolean): Promise<boolean> {
    const { outcome } = await this.#jobs.report('job-ended', id)
    if (outcome.kind === 'cancelled' && forced) return false
    t.equal(outcome.kind, 'success', `${id} ended well`)
    for (let wait = this.#below(30); wait > 0; wait--) await turn()
    await this.#jobs.verbs['job-finalize']({ id, commit: true })
    return true
  }

  async #onePass(t: Test, id: string): Promise<boolean> {
    const forced = this.#below(4) === 0
    await this.#pauses(id)
    if (forced) await this.#verb('job-cancel', id)
    return this.#end(t, id, forced)
  }

  async commit(t: Test): Promise<string> {
    const top = 1 + this.#below(this.layers.length - 2)
    const base = this.#below(top)
    const id = `commit${++this.#jobsMade}`
    const { path: name, format } = this.at(base)
    await this.#jobs.start(id, {
      ...{ kind: 'commit', overlay: this.at(top + 1).name, top: this.at(top).name, base: this.at(base).name },
      ...{ backing: { name, format }, speed: 0, onError: 'report', yielding: true },
      filter: { name: `#${id}`, below: this.at(top).name },
    })
    const applied = await this.#onePass(t, id)
    if (applied) await this.#forget(base + 1, top)
    return `${id} ${top}>${base} ${applied}`
  }

  async stream(t: Test): Promise<string> {
    const node = 1 + this.#below(this.layers.length - 1)
    const base = this.#below(node + 1) - 1
    const id = `stream${++this.#jobsMade}`
    const { path: name, format } = base < 0 ? { path: '', format: 'raw' } : this.at(base)
    await this.#jobs.start(id, {
      ...{ kind: 'stream', node: this.at(node).name, base: base < 0 ? undefined : this.at(base).name },
      ...{ backing: base < 0 ? undefined : { name, format }, speed: 0, onError: 'report', yielding: true },
      filter: { name: `#${id}`, below: this.at(node).name },
    })
    const applied = await this.#onePass(t, id)
    if (applied) await this.#forget(base + 1, node - 1)
    return `${id} ${node}>${base} ${applied}`
  }

  async commitActive(t: Test): Promise<string> {
    const base = this.#below(this.layers.length - 1)
    const id = `active${++this.#jobsMade}`
    const [source, target] = [this.at(-1).name, this.at(base).name]
    await this.#jobs.start(id, mirrorSpec({ source, target, filter: `f${id}`, commit: true }))
    await this.#pauses(id)
    const end = ['pivot', 'pivot', 'soft', 'forced'][this.#below(4)]
    if (end !== 'forced') {
      this.#jobs.converging = true
      await this.#jobs.report('job-ready', id)
      this.#jobs.converging = false
      await this.#pauses(id)
      await this.#jobs.verbs['job-complete']({ id, pivot: end === 'pivot' })
    } else await this.#verb('job-cancel', id)
    const applied = (await this.#end(t, id, end === 'forced')) && end === 'pivot'
    if (applied) await this.#forget(base + 1, this.layers.length - 1)
    return `${id} >${base} ${end}`
  }

  /** Nodes that users defined stay open: they are closed here, the uppermost first. */
  async #forget(first: number, last: number): Promise<void> {
    const gone = this.layers.splice(first, last - first + 1)
    for (const { name } of gone.reverse()) await this.#g.graph.remove(name)
  }
}

function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8' })
}

async function step(t: Test, chain: Chain, below: Below): Promise<string> {
  const depth = chain.layers.length
  if (depth < 3 || (depth < 6 && below(3) === 0)) {
    await chain.overlay()
    return 'overlay'
  }
  if (below(2) === 0) await chain.freeze()
  switch (below(3)) {
    case 0:
      return chain.commit(t)
    case 1:
      return chain.stream(t)
    default:
      return chain.commitActive(t)
  }
}

/** What the guest's disk is, in a raw file. */
async function dump(g: TestGraph, claim: Claim, path: string): Promise<void> {
  const parts: Uint8Array[] = []
  for (let at = 0; at < BLOCKS * BLOCK; at += 1 << 20) parts.push(await g.read(claim.node, at, 1 << 20))
  writeFileSync(path, Buffer.concat(parts))
}

for (const format of ['raw', 'qcow2'] as const)
  t.test(`a guest that writes never notices what becomes of its ${format} base`, { skip }, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const dir = t.testdir({})
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    const chain = new Chain(g, jobs, dir, below)
    await chain.base(format)
    const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
    const claim = await g.graph.claim('a guest', g.graph.node('n0'), writer, () => undefined)
    const guest = new StampedDisk(guestOf(g, claim), BLOCKS, below)
    const running = guest.run(4, 2, async () => {
      do await turn()
      while (jobs.converging ? below(2000) > 0 : below(2) > 0)
    })
    running.catch(() => undefined)
    const story: string[] = []
    try {
      for (let at = 0; at < STEPS && !guest.stopped; at++) {
        for (let wait = below(100); wait > 0; wait--) await turn()
        const told = await Promise.race([step(t, chain, below), running.then(() => 'guest ended')])
        story.push(told)
        t.equal(claim.node.name, chain.at(-1).name, told)
      }
    } finally {
      t.comment(story.join('; '))
      guest.stop()
    }
    await running
    await guest.verify()
    const raw = join(dir, 'guest.raw')
    await dump(g, claim, raw)
    await claim.release()
    t.same(g.log, [])
    await g.graph.close()
    const top = chain.at(-1)
    qemuImg('compare', '-f', 'raw', '-F', top.format, raw, top.path)
    for (const layer of chain.layers) if (layer.format === 'qcow2') qemuImg('check', '-q', layer.path)
    t.comment(`${guest.requests} requests, ${chain.layers.length} layers are left`)
  })
