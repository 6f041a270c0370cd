// SPDX-License-Identifier: Apache-2.0
// Copies between a file and an export of qemu-nbd, in both directions: blockferryd and qemu-storage-daemon mirror, nbdcopy
// copies. Rounds interleaved, targets made anew, content compared.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { installed, type Program } from '../helpers/program.js'
import { type Contender, type Copy, fileNode, mirrorNodes, timed } from './contenders.js'
import { race, ratio, show } from './copies.js'
import { makeDense, makeTarget } from './images.js'
import { daemons } from './live-parts.js'
import { qemuNbd } from './nbd.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, print, type Verdict } from './report.js'

const GiB = 2 ** 30
const EXPORT = 'x'
/** Of the faster peer's time. */
const LIMIT = 0.9

type Direction = 'NBD → raw' | 'raw → NBD'

export async function nbdCopies(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('nbd'), size }
  makeDense(copy.source, size)
  const verdicts: Verdict[] = []
  for (const direction of ['NBD → raw', 'raw → NBD'] as const) {
    print(`\n## ${mebibytes(size)} ${direction}\n`)
    const all = daemons(options).map(({ name, program }) => mirroring(name, program, direction))
    if (installed('nbdcopy')) all.push(copying(direction))
    const results = await race(copy, all, options.rounds)
    show(results)
    const [ours, ...peers] = results
    if (ours === undefined) continue
    const slowest = Math.max(...peers.map((peer) => ratio(ours, peer)))
    verdicts.push(atMost(`live: ${direction}, time over the faster peer’s`, slowest, LIMIT))
  }
  rmSync(copy.source)
  return verdicts
}

/** The remote end is served while `work` is done. */
async function remotely<T>(
  copy: Copy,
  direction: Direction,
  work: (socket: string) => Promise<T>,
): Promise<T> {
  makeTarget(copy.target, copy.size)
  const image = direction === 'NBD → raw' ? copy.source : copy.target
  await using _server = await qemuNbd({ folder: copy.directory, image, direct: true })
  return await work(join(copy.directory, 'qemu-nbd.sock'))
}

function mirroring(name: string, program: Program, direction: Direction): Contender {
  return {
    name,
    copy: (copy) =>
      remotely(copy, direction, async (path) => {
        await using daemon = await Daemon.start({ directory: copy.directory, program })
        const remote = (node: string) => ({
          ...{ driver: 'nbd', 'node-name': node, server: { type: 'unix', path }, export: EXPORT },
        })
        const [source, target] =
          direction === 'NBD → raw'
            ? [remote('source'), fileNode('target', copy.target)]
            : [fileNode('source', copy.source), remote('target')]
        const before = daemon.cpu()
        const seconds = await mirrorNodes(daemon.client, source, target)
        const after = daemon.cpu()
        const cpuSeconds = after.user + after.system - before.user - before.system
        return { seconds, cpuSeconds, peak: daemon.memory().peak }
      }),
  }
}

function copying(direction: Direction): Contender {
  return {
    name: 'nbdcopy',
    copy: (copy) =>
      remotely(copy, direction, async (path) => {
        const uri = `nbd+unix:///${EXPORT}?socket=${path}`
        const ends = direction === 'NBD → raw' ? [uri, copy.target] : [copy.source, uri]
        return await timed(['nbdcopy', '--flush', ...ends])
      }),
  }
}
