// SPDX-License-Identifier: Apache-2.0
// Changing the size of a qcow2 disk: what was cut off does not come back, and the data file goes with the disk.

import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { DiskBytes } from '../../../../../helpers/power-cut/disk-bytes.js'
import { Lab } from '../../../../../helpers/power-cut/lab.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const SIZE = 65536
const [SHORT, LONG] = [10 * 4096 + 1024, 14 * 4096]

/** A disk full of data that is made shorter and longer again. @returns its content and its devices */
async function shrinkAndGrow(t: Test, options: string, compressed = false) {
  const lab = new Lab(t)
  const folder = t.testdir({})
  const image = join(folder, 'image')
  const data = options.includes('data_file') ? join(folder, 'data') : undefined
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options.replace('DATA', data ?? ''), image, String(SIZE))
  const files = data === undefined ? [image] : [image, data]
  const disks = files.map((file, index) => new DiskBytes(readFileSync(file), index > 0))
  const node = await lab.open(lab.disks(disks, undefined), false)
  const [slot = 0] = lab.slots
  lab.engine.slotBytes(slot).fill(0x77, 0, SIZE)
  await node.write(0, { slot, offset: 0, length: SIZE }, { compressed })
  await node.resize(SHORT)
  await node.resize(LONG)
  const content = await lab.content(node)
  await node.driver.close()
  return { content, disks, lab }
}

const wanted = Buffer.concat([Buffer.alloc(SHORT, 0x77), Buffer.alloc(LONG - SHORT)])

for (const { name, options, compressed } of [
  { name: 'clusters', options: 'cluster_size=4k' },
  { name: 'large clusters', options: 'cluster_size=64k' },
  { name: 'subclusters', options: 'cluster_size=16k,extended_l2=on' },
  { name: 'compressed clusters', options: 'cluster_size=4k', compressed: true },
]) {
  t.test(`what a shorter disk lost reads as zero when it grows: ${name}`, { skip }, async (t) => {
    const { content } = await shrinkAndGrow(t, options, compressed)
    t.ok(content.equals(wanted))
  })
}

for (const raw of ['', ',data_file_raw=on']) {
  t.test(`a data file is as long as its disk${raw}`, { skip }, async (t) => {
    const { content, disks, lab } = await shrinkAndGrow(t, `cluster_size=4k,data_file=DATA${raw}`)
    t.ok(content.equals(wanted))
    t.equal(disks[1]?.length, LONG)
    const node = await lab.open(lab.disks(disks, undefined), false)
    const [slot = 0] = lab.slots
    await node.write(LONG - 512, { slot, offset: 0, length: 512 })
    t.ok((await lab.content(node)).subarray(0, LONG - 512).equals(wanted.subarray(0, LONG - 512)))
    await node.driver.close()
  })
}

for (const compat of ['0.10', '1.1'])
  for (const length of [2 ** 30, 2 ** 32])
    t.test(
      `tables longer than a refcount block counts find a place: ${length}, version ${compat}`,
      { skip },
      async (t) => {
        const file = join(t.testdir({}), 'image')
        mustQemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=512,compat=${compat}`, file, '256K')
        qemuIo(file, 'write -P 7 0 256K')
        const g = testGraph(t)
        const node = await openImage(g, file)
        await g.graph.resize(node.name, length)
        await g.write(node, length - 512, Buffer.alloc(512, 9))
        await g.graph.remove(node.name)
        t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
        qemuIo(file, 'read -P 7 0 256K', `read -P 9 ${length - 512} 512`)
        t.ok(statSync(file).size < 4 * 2 ** 20, `${statSync(file).size} bytes`)
      },
    )
