// SPDX-License-Identifier: Apache-2.0
// `compare -s` over all pairs of some kinds of images, beside what qemu-img says of the same pair.

import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { mustQemuImg, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const SIZE = 262144

const empty = (path: string, ...more: string[]) =>
  mustQemuImg('create', '-q', '-f', 'qcow2', ...more, path, String(SIZE))
const filled = (path: string, ...commands: string[]) => {
  empty(path)
  qemuIo(path, ...commands)
}
const over = (path: string, below: Buffer) => {
  writeFileSync(`${path}.base`, below)
  if (below.every((byte) => byte === 0)) {
    truncateSync(`${path}.base`, 0)
    truncateSync(`${path}.base`, SIZE)
  }
  empty(path, '-b', `${path}.base`, '-F', 'raw')
}
const ones = Buffer.alloc(SIZE, 1)

/** Each makes one image, all of it of one kind. */
const kinds: Readonly<Record<string, (path: string) => void>> = {
  'raw hole': (path) => {
    writeFileSync(path, '')
    truncateSync(path, SIZE)
  },
  'raw zeroes': (path) => writeFileSync(path, Buffer.alloc(SIZE)),
  'raw data': (path) => writeFileSync(path, ones),
  'qcow2 unallocated': (path) => empty(path),
  'qcow2 zero clusters': (path) => filled(path, `write -z -u 0 ${SIZE}`),
  'qcow2 zero clusters with places': (path) => filled(path, `write -P 1 0 ${SIZE}`, `write -z 0 ${SIZE}`),
  'qcow2 zeroes': (path) => filled(path, `write -P 0 0 ${SIZE}`),
  'qcow2 data': (path) => filled(path, `write -P 1 0 ${SIZE}`),
  'qcow2 preallocated': (path) => empty(path, '-o', 'preallocation=metadata'),
  'qcow2 compressed': (path) => {
    writeFileSync(`${path}.raw`, ones)
    mustQemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', `${path}.raw`, path)
  },
  'qcow2 over a hole': (path) => over(path, Buffer.alloc(SIZE)),
  'qcow2 over data': (path) => over(path, ones),
}

t.test('what is alike is what qemu-img calls so', { skip }, async (t) => {
  const folder = t.testdir({})
  const images = Object.entries(kinds).map(([name, make], index) => {
    const path = join(folder, String(index))
    make(path)
    return { name, path, format: name.startsWith('raw') ? 'raw' : 'qcow2' }
  })
  for (const [index, one] of images.entries())
    for (const other of images.slice(index)) {
      const words = ['compare', '-s', '-f', one.format, '-F', other.format, one.path, other.path]
      const { status, stdout } = qemuImg(...words)
      t.match(await run(words), { status, stdout }, `${one.name}, ${other.name}`)
    }
})

t.test('data in several pieces are as good as in one', { skip }, async (t) => {
  const folder = t.testdir({})
  const [scattered, whole] = [join(folder, 'scattered'), join(folder, 'whole')]
  filled(scattered, `write -P 1 ${SIZE / 2} ${SIZE / 2}`, `write -P 1 0 ${SIZE / 2}`)
  writeFileSync(whole, ones)
  t.match(await run(['compare', '-s', '-f', 'raw', whole, scattered]), { status: 0 })
})

t.test('the first place where they are unlike is told', { skip }, async (t) => {
  const folder = t.testdir({})
  const [one, other] = [join(folder, 'one'), join(folder, 'other')]
  filled(one, `write -P 1 0 ${SIZE / 2}`, `write -z -u ${SIZE / 2} ${SIZE / 2}`)
  filled(other, `write -P 1 0 ${SIZE / 2}`)
  const words = ['compare', '-s', one, other]
  const { status, stdout } = qemuImg(...words)
  t.match(await run(words), { status, stdout })
})
