// SPDX-License-Identifier: Apache-2.0
// The power is cut at every point of a repair: the disk reads as before, nothing that was sound is damaged, and a repair
// that is run again ends clean. Prints its seed; SEED=n repeats it.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { mustQemuImg, qemuIo } from '../../../../../../helpers/check-image.js'
import { newSeed, random } from '../../../../../../helpers/graph.js'
import { DiskBytes } from '../../../../../../helpers/power-cut/disk-bytes.js'
import { Lab } from '../../../../../../helpers/power-cut/lab.js'
import {
  type DiskEvent,
  RecordedDisk,
  type Recording,
} from '../../../../../../helpers/power-cut/recorded-disk.js'
import { Replay } from '../../../../../../helpers/power-cut/replay.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile } from '../../../../../../helpers/qcow2-image.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

interface Case {
  readonly name: string
  readonly repair: 'leaks' | 'all'
  /** Counts are too low before: they may be until the repair has ended. */
  readonly low?: true
  /** One corruption before: it may be there until the repair has ended. */
  readonly flaw?: true
  readonly damage: (image: ImageFile, below: (below: number) => number) => void
}

/** Clusters that the image has in any case. */
const USED = 40

function change(image: ImageFile, below: (below: number) => number, value: () => number): void {
  for (let count = 0; count < 6; count++) image.setRefcount(below(USED), value())
}

const cases: readonly Case[] = [
  { name: 'leaks', repair: 'leaks', damage: (image, below) => change(image, below, () => 3 + below(3)) },
  { name: 'leaks', repair: 'all', damage: (image, below) => change(image, below, () => 3 + below(3)) },
  {
    name: 'counts that are too low',
    repair: 'all',
    low: true,
    damage: (image, below) => {
      for (let count = 0; count < 6; count++)
        image.setRefcount(Number(image.u64(image.l2At(below(20))) & 0x00ff_ffff_ffff_fe00n) / 4096, 1)
    },
  },
  {
    name: 'counts that are missing',
    repair: 'all',
    low: true,
    damage: (image, below) => change(image, below, () => 0),
  },
  {
    name: 'a table of counts that is lost',
    repair: 'all',
    low: true,
    damage: (image) => image.set64(image.refTableAt(0), 0n),
  },
  {
    name: 'an entry of the snapshot table that lacks its extra data',
    repair: 'all',
    flaw: true,
    damage: (image) => image.set32(image.header.snapshotsOffset + 36, 0),
  },
]

for (const { name, repair, low, flaw, damage } of cases) {
  t.test(`a power cut during --repair ${repair} damages nothing more: ${name}`, { skip }, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const file = path.join(t.testdir({}), 'a.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', file, '2M')
    qemuIo(file, 'write -P 1 0 300k', 'write -P 3 1M 64k')
    mustQemuImg('snapshot', '-c', 'one', file)
    qemuIo(file, 'write -P 2 100k 64k')
    const image = new ImageFile(file)
    damage(image, below)
    image.save()

    const lab = new Lab(t)
    const before = new DiskBytes(readFileSync(file), false)
    const content = await lab.content(await lab.open(lab.disks([before.copy()], undefined), true))
    const recording: Recording = { log: [], below, requests: 0, fault: 0 }
    const fixed = await lab.check(new RecordedDisk(lab.engine, before.copy(), 0, recording), repair)
    t.match(fixed, { corruptions: 0, checkErrors: 0, leaks: 0 })
    t.ok(fixed.leaksFixed + fixed.corruptionsFixed > 0)

    const replay = new Replay([before], below)
    for (const event of recording.log as DiskEvent[]) {
      replay.step(event)
      for (let again = 0; again < 3; again++) {
        const { image: cut } = lab.disks(replay.cut(), undefined)
        const found = await lab.check(cut)
        if (flaw) t.ok(found.corruptions <= 1 && found.checkErrors === 0)
        else if (!low) t.match(found, { corruptions: 0, checkErrors: 0 })
        const node = await lab.open({ image: cut, data: undefined, backing: undefined }, true)
        if (!content.equals(await lab.content(node))) t.fail('the disk reads as before')
        t.match(await lab.check(cut, repair), { corruptions: 0, checkErrors: 0, leaks: 0 })
        t.match(await lab.check(cut), { corruptions: 0, checkErrors: 0, leaks: 0 })
      }
    }
  })
}
