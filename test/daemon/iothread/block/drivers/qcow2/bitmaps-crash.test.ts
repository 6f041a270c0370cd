// SPDX-License-Identifier: Apache-2.0
// The power is cut, or the program killed, at every point of work with persistent bitmaps: the image is whole but for
// leaks, and a bitmap that it does not say to be in use shows what it showed at that moment. Prints its seed; SEED=n
// repeats it, CRASH_ROUNDS=n runs more of them.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { BitmapStore } from '../../../../../../daemon/iothread/block/bitmaps/bitmap-store.js'
import type { NamedBitmap } from '../../../../../../daemon/iothread/block/bitmaps/named-bitmap.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg } from '../../../../../helpers/check-image.js'
import { newSeed, random } from '../../../../../helpers/graph.js'
import { DiskBytes } from '../../../../../helpers/power-cut/disk-bytes.js'
import { Lab } from '../../../../../helpers/power-cut/lab.js'
import {
  type DiskEvent,
  RecordedDisk,
  type Recording,
} from '../../../../../helpers/power-cut/recorded-disk.js'
import { Replay } from '../../../../../helpers/power-cut/replay.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 1) * 3
const SIZE = 4 << 20
const STEPS = 60
const CUTS = 150

/** What bitmaps show, by name. */
type Shown = ReadonlyMap<string, string>

interface Step {
  readonly what: string
  /** Events of the recording before its end. */
  readonly end: number
  readonly before: Shown
  readonly after: Shown
}

const show = (bitmap: NamedBitmap): string =>
  `${bitmap.granularity} ${bitmap.recording} ${Buffer.from(bitmap.content().bits).toString('hex')}`

const shown = (node: BlockNode): Shown =>
  new Map(
    node.bitmaps
      .all()
      .filter(({ inconsistent }) => !inconsistent)
      .map((bitmap) => [bitmap.name, show(bitmap)]),
  )

class Work {
  readonly steps: Step[] = []
  readonly #node: BlockNode
  readonly #lab: Lab
  readonly #recording: Recording

  constructor(node: BlockNode, lab: Lab, recording: Recording) {
    this.#node = node
    this.#lab = lab
    this.#recording = recording
  }

  async step(): Promise<void> {
    const before = shown(this.#node)
    const what = await this.#one()
    const end = this.#recording.log.length
    this.steps.push({ what, end, before, after: shown(this.#node) })
  }

  async settle(): Promise<void> {
    await this.#node.driver.settle?.()
  }

  async #one(): Promise<string> {
    const { below } = this.#recording
    const { bitmaps, driver } = this.#node
    const name = `b${below(4)}`
    const store = driver.bitmapStore as BitmapStore
    const bitmap = bitmaps.find(name)
    const kind = below(10)
    if (kind < 3) {
      const offset = below(SIZE / 512) * 512
      const length = Math.min(SIZE - offset, (1 + below(40)) * 512)
      const [slot = 0] = this.#lab.slots
      await this.#node.write(offset, { slot, offset: 0, length })
      return 'write'
    }
    if (kind < 5) {
      await this.settle()
      return 'settle'
    }
    if (bitmap === undefined) {
      await store.hold(name)
      bitmaps.add({ name, granularity: 512 << below(8), persistent: true, recording: below(3) > 0 })
      return `add ${name}`
    }
    if (kind === 5 || bitmap.inconsistent) {
      bitmaps.remove(bitmap).keep()
      await store.remove(name)
      return `remove ${name}`
    }
    await store.hold(name)
    if (kind === 6) bitmap.clear().keep()
    else if (kind === 7) bitmap.record(!bitmap.recording).keep()
    else {
      const others = bitmaps.all().filter(({ inconsistent }) => !inconsistent)
      bitmap.merge(others.slice(below(2)).map(({ bits }) => bits)).keep()
    }
    return `change ${name}`
  }
}

/** @returns what is wrong with what a cut left */
async function fault(lab: Lab, cut: readonly DiskBytes[], step: Step): Promise<string | undefined> {
  const disks = lab.disks(cut, undefined)
  const found = await lab.check(disks.image)
  if (found.corruptions + found.checkErrors > 0) return found.lines.slice(0, 5).join('; ')
  const node = await lab.open(disks, true)
  for (const [name, content] of shown(node)) {
    if (content === step.before.get(name) || content === step.after.get(name)) continue
    return `${name} shows ${content}, not ${step.before.get(name)} nor ${step.after.get(name)}`
  }
  await node.driver.close()
  return undefined
}

t.test('a bitmap that is not in use shows the truth after a power cut', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  t.setTimeout((ROUNDS + 1) * 60_000)
  const lab = new Lab(t)
  let cuts = 0
  for (let round = 0; round < ROUNDS; round++) {
    const below = random(seed + round)
    const image = join(t.testdir({}), 'image.qcow2')
    mustQemuImg(
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      `cluster_size=${round % 2 === 0 ? '512' : '4k'}`,
      image,
      String(SIZE),
    )
    const initial = new DiskBytes(readFileSync(image), false)
    const recording: Recording = { log: [], below, requests: 0, fault: 0 }
    const disk = new RecordedDisk(lab.engine, initial.copy(), 0, recording)
    const node = await lab.open({ image: disk, data: undefined, backing: undefined }, false)
    const work = new Work(node, lab, recording)
    for (let step = 0; step < STEPS; step++) await work.step()
    const last = shown(node)
    await node.driver.close()
    work.steps.push({ what: 'close', end: recording.log.length, before: last, after: last })
    const replay = new Replay([initial.copy()], below)
    const events = recording.log as DiskEvent[]
    for (const [index, event] of events.entries()) {
      replay.step(event)
      if (below(events.length) >= CUTS) continue
      const step = work.steps.find(({ end }) => index < end) as Step
      const found = await fault(lab, replay.cut(), step)
      cuts += 1
      if (found !== undefined) {
        t.fail(`SEED=${seed + round}, event ${index} of ${events.length}, ${step.what}: ${found}`)
        return
      }
    }
    const whole = await lab.open(lab.disks([disk.disk], undefined), true)
    t.strictSame(new Map([...shown(whole)].sort()), new Map([...last].sort()), 'all are stored in the end')
    t.match(await lab.check(lab.disks([disk.disk], undefined).image), { corruptions: 0, leaks: 0 })
    t.same(lab.corrupt, [])
  }
  t.comment(`${cuts} cuts`)
})
