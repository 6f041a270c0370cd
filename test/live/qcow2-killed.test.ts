// SPDX-License-Identifier: Apache-2.0
// blockferryd is killed while it mirrors to a qcow2 image: at any moment the image is whole but for leaks, and a rerun
// over it ends equal.

import t from 'tap'
import { mustQemuImg, oracle, qemuImg } from '../helpers/check-image.js'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { deadline, pace } from '../helpers/waiting.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const SIZE = 64 * MiB
const KILLS = Number(process.env.CRASH_ROUNDS ?? 1) * 5

/** Waits until so many bytes are copied. */
async function copied(client: QmpClient, bytes: number): Promise<void> {
  for (;;) {
    const jobs = (await client.execute('query-block-jobs')) as readonly { offset: number; ready: boolean }[]
    if (jobs.some(({ offset, ready }) => ready || offset >= bytes)) return
    await pace(1)
  }
}

async function start(client: QmpClient, source: string, target: string, more: object): Promise<void> {
  await client.execute('blockdev-add', rawNode('source', source))
  const job = { 'job-id': 'm', device: 'source', sync: 'full', format: 'qcow2', target }
  await client.execute('drive-mirror', { ...job, ...more })
}

/** The tasks of a killed daemon's engine end a moment after it, and their locks with them. */
async function unlocked(image: string): Promise<void> {
  using clock = deadline(10_000)
  while (/lock/.test(qemuImg('info', image).stderr)) {
    if (clock.over) throw new Error(`'${image}' is locked still`)
    await pace(20)
  }
}

t.test(
  'a killed mirror leaves a qcow2 image with at most leaks, and a rerun ends equal',
  { skip },
  async (t) => {
    t.setTimeout((KILLS + 5) * 20_000)
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    using scratch = new Scratch()
    const [source, target] = [scratch.file('source.img'), scratch.file('target.qcow2')]
    fill(source, SIZE)
    for (let kill = 0; kill < KILLS; kill++) {
      await using daemon = await Daemon.start({ directory: scratch.path })
      // The image that was left by the one before is used again, or a new one is made.
      const mode = kill > 0 && below(2) === 0 ? 'existing' : 'absolute-paths'
      await start(daemon.client, source, target, { mode, speed: 128 * MiB, granularity: 64 * 1024 })
      await copied(daemon.client, below(SIZE))
      daemon.running.child.kill('SIGKILL')
      t.equal(await daemon.running.ended(10_000), -9)
      await unlocked(target)
      t.match(oracle(target), { corruptions: 0, checkErrors: 0 }, `after ${kill + 1} kills`)
    }
    await using daemon = await Daemon.start({ directory: scratch.path })
    await start(daemon.client, source, target, { mode: 'existing' })
    await daemon.client.event('BLOCK_JOB_READY')
    await daemon.client.execute('job-complete', { id: 'm' })
    await daemon.client.status('m', 'null')
    t.match(mustQemuImg('compare', '-f', 'raw', '-F', 'qcow2', source, target), /identical/)
    t.match(oracle(target, '-r', 'leaks'), { corruptions: 0, checkErrors: 0, leaks: 0 })
  },
)
