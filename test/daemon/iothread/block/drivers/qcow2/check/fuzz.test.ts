// SPDX-License-Identifier: Apache-2.0
// The check ends on every mutated image, within bounds, with a result or one clear error. FUZZ_SECONDS says how long
// (default 5, 20 where CI is set), SEED repeats a run.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FormatError } from '../../../../../../../protocol/format-error.js'
import { checker, mustQemuImg, qemuIo } from '../../../../../../helpers/check-image.js'
import { newSeed, random } from '../../../../../../helpers/graph.js'
import { mutate } from '../../../../../../helpers/mutate.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile, smallImage } from '../../../../../../helpers/qcow2-image.js'

const MiB = 2 ** 20
const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 5 : 20))

/** Images worth hurting; with qemu-img also one with snapshots, bitmaps and compressed clusters. */
function images(folder: string): Buffer<ArrayBuffer>[] {
  const list = [smallImage()]
  if (!installed('qemu-img') || !installed('qemu-io')) return list
  for (const options of [
    'cluster_size=4k',
    'cluster_size=16k,extended_l2=on',
    'compat=0.10,cluster_size=512',
  ]) {
    const file = path.join(folder, `rich${list.length}.qcow2`)
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, file, '1M')
    qemuIo(file, 'write -P 1 0 20k', 'write -z 64k 16k')
    mustQemuImg('snapshot', '-c', 'one', file)
    if (!options.startsWith('compat')) mustQemuImg('bitmap', '--add', '-g', '512', file, 'b0')
    qemuIo(file, 'write -P 2 4k 8k', 'write -c -P 3 512k 16k')
    list.push(new ImageFile(file).bytes)
  }
  return list
}

t.test('whatever is in an image, its check and its repair end, in bounded memory', async (t) => {
  const folder = t.testdir({})
  const file = path.join(folder, 'a.qcow2')
  const originals = images(folder)
  const check = checker(t)
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const draw = random(seed)
  const before = process.memoryUsage().rss
  const end = performance.now() + seconds * 1000
  let rounds = 0
  for (; performance.now() < end; rounds++) {
    const bytes = Buffer.from(originals[draw(originals.length)] ?? smallImage())
    // Half of the damage goes into the header and what follows it.
    mutate(bytes, draw(2) === 0 ? 4096 : bytes.length, draw)
    writeFileSync(file, bytes)
    for (const repair of ['none', draw(2) === 0 ? 'leaks' : 'all'] as const) {
      try {
        await check(file, repair)
      } catch (error) {
        if (!(error instanceof FormatError)) {
          writeFileSync(path.join(folder, 'failed.qcow2'), bytes)
          throw error
        }
      }
    }
  }
  t.comment(`${rounds} images`)
  const grown = process.memoryUsage().rss - before
  t.ok(grown < 384 * MiB, `${Math.round(grown / MiB)} MiB more than before`)
})
