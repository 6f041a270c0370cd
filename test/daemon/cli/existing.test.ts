// SPDX-License-Identifier: Apache-2.0
// `convert -n` into an image that is larger or smaller than the source, beside what qemu-img does with the same one.

import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const MiB = 1048576

/** A source of 1 MiB in both formats, and a target full of other data. */
function images(t: Test, format: string, size: number) {
  const folder = t.testdir({})
  const [qcow2, raw, target, theirs] = ['qcow2', 'raw', 'target', 'theirs'].map((name) =>
    join(folder, name),
  ) as [string, string, string, string]
  mustQemuImg('create', '-q', '-f', 'qcow2', qcow2, '1M')
  qemuIo(qcow2, 'write -P 1 0 64k', 'write -P 2 512k 64k')
  mustQemuImg('convert', '-O', 'raw', qcow2, raw)
  const full = join(folder, 'full')
  writeFileSync(full, Buffer.alloc(size, 9))
  mustQemuImg('convert', '-f', 'raw', '-O', format, full, target)
  copyFileSync(target, theirs)
  return { qcow2, raw, target, theirs }
}

const sizes = [
  { name: 'twice as large', size: 2 * MiB, fits: true },
  { name: 'larger by a sector', size: MiB + 512, fits: true },
  { name: 'as large', size: MiB, fits: true },
  { name: 'smaller by a sector', size: MiB - 512, fits: false },
]
for (const { name, size, fits } of sizes)
  for (const format of ['raw', 'qcow2'] as const)
    for (const from of ['raw', 'qcow2'] as const) {
      t.test(`${from} into ${format}, ${name}`, { skip }, async (t) => {
        const { target, theirs, ...sources } = images(t, format, size)
        const before = readFileSync(target)
        const words = ['-n', '-f', from, '-O', format, sources[from]]
        const { status, stderr } = await run(['convert', ...words, target])
        t.equal(status, qemuImg('convert', ...words, theirs).status, stderr)
        const there = mustQemuImg('compare', '-f', format, '-F', format, target, theirs)
        t.match(there, /identical/, 'what lies beyond stays as it was')
        if (fits) return
        t.equal(
          stderr,
          `blockferry: '${target}' is too small: ${size} bytes, '${sources[from]}' has ${MiB} bytes\n`,
        )
        t.equal(Buffer.compare(readFileSync(target), before), 0)
      })
    }

t.test('compressed, with an end within a cluster', { skip }, async (t) => {
  const { raw, target } = images(t, 'qcow2', 2 * MiB)
  truncateSync(raw, MiB + 512)
  mustQemuImg('create', '-q', '-f', 'qcow2', target, '2M')
  qemuIo(target, 'write -P 3 0 2M')
  t.match(await run(['convert', '-q', '-n', '-c', '-f', 'raw', '-O', 'qcow2', raw, target]), { status: 0 })
  qemuIo(target, `read -P 3 ${MiB + 512} ${MiB - 512}`)
  mustQemuImg('resize', '-q', '--shrink', target, String(MiB + 512))
  t.match(mustQemuImg('compare', '-f', 'raw', '-F', 'qcow2', raw, target), /identical/)
  t.equal(qemuImg('check', target).status, 0)
})

t.test('compressed and with every zero stored too', { skip }, async (t) => {
  for (const words of [['-c'], ['-S', '0']]) {
    const { raw, target } = images(t, 'qcow2', 2 * MiB)
    mustQemuImg('create', '-q', '-f', 'qcow2', target, '2M')
    t.match(await run(['convert', '-q', '-n', '-O', 'qcow2', ...words, raw, target]), {
      status: 0,
      stderr: '',
    })
    t.match(mustQemuImg('compare', '-f', 'raw', '-F', 'qcow2', raw, target), /identical/)
    t.equal(qemuImg('check', target).status, 0)
  }
})
