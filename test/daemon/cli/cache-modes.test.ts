// SPDX-License-Identifier: Apache-2.0
// Cache modes of the commands that take those of qemu-img.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { cacheModes, isDirect, isUnsafe } from '../../../daemon/cli/cache-modes.js'
import { mustQemuImg, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

function images(t: Test) {
  const folder = t.testdir({})
  const [image, raw, target] = ['image', 'raw', 'target'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  mustQemuImg('create', '-q', '-f', 'qcow2', image, '4M')
  qemuIo(image, 'write -P 1 1M 1M')
  mustQemuImg('convert', '-O', 'raw', image, raw)
  return { image, raw, target }
}

t.test('what a mode means for a node', async (t) => {
  t.same(cacheModes.filter(isDirect), ['none', 'directsync'])
  t.same(cacheModes.filter(isUnsafe), ['unsafe'])
})

for (const mode of cacheModes) {
  t.test(`images are checked, compared and converted with ${mode}`, { skip }, async (t) => {
    const { image, raw, target } = images(t)
    const check = await run(['check', '-T', mode, image])
    t.same(check, pick(qemuImg('check', '-T', mode, image)))
    t.match(await run(['compare', '-T', mode, image, raw]), { status: 0, stdout: 'Images are identical.\n' })
    const flushed = mode === 'unsafe' ? /, flush: disabled$/m : /, flushed$/m
    for (const format of ['raw', 'qcow2']) {
      const words = ['-t', mode, '-T', mode, '-O', format]
      t.match(await run(['convert', ...words, image, target]), { status: 0, stderr: '', stdout: flushed })
      t.match(mustQemuImg('compare', '-f', format, '-F', 'raw', target, raw), /identical/)
    }
  })
}

t.test('a repair writes with any mode', { skip }, async (t) => {
  const { image } = images(t)
  for (const mode of cacheModes) t.match(await run(['check', '-r', 'all', '-T', mode, image]), { status: 0 })
  t.match(qemuImg('check', image), { status: 0 })
})

t.test('a mode that is none is refused with those there are', async (t) => {
  const file = join(t.testdir({ file: 'x' }), 'file')
  for (const words of [
    ['check', '-T', 'fast', file],
    ['compare', '-T', 'fast', file, file],
    ['convert', '-t', 'fast', file, `${file}2`],
    ['convert', '-T', 'fast', file, `${file}2`],
  ]) {
    const { status, stderr } = await run(words)
    t.not(status, 0)
    t.match(stderr, /^[^\n]*fast[^\n]* none, writeback, writethrough, directsync, unsafe\n$/)
  }
  t.equal(readFileSync(file, 'utf8'), 'x')
})

function pick({ status, stdout, stderr }: ReturnType<typeof qemuImg>) {
  return { status, stdout, stderr }
}
