// SPDX-License-Identifier: Apache-2.0
// `blockferry commit` and `blockferry stream`, judged by qemu-img.

import { copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

/** base ← mid ← top, each with a MiB of its own; `before` holds the same as top. */
function chain(t: Test): (name: string) => string {
  const folder = shortFolder(t)
  const path = (name: string) => join(folder, name)
  for (const [index, name] of ['base', 'mid', 'top'].entries()) {
    const below = index === 0 ? [] : ['-b', index === 1 ? 'base' : 'mid', '-F', 'qcow2']
    mustQemuImg('create', '-q', '-f', 'qcow2', ...below, path(name), '8M')
    qemuIo(path(name), `write -q -P ${index + 1} ${index}M 1M`, `write -q -P ${index + 5} 4M ${3 - index}M`)
  }
  mustQemuImg('convert', '-O', 'raw', path('top'), path('before'))
  return path
}

function same(t: Test, path: (name: string) => string, name: string): void {
  t.match(mustQemuImg('compare', '-f', 'raw', '-F', 'qcow2', path('before'), path(name)), /identical/)
  t.match(mustQemuImg('check', path(name)), /^No errors/)
}

function info(path: string): { 'backing-filename'?: string; 'actual-size': number } {
  return JSON.parse(mustQemuImg('info', '--output=json', path))
}

t.test('commit moves what an image holds into its backing file', { skip }, async (t) => {
  const path = chain(t)
  const size = info(path('top'))['actual-size']
  const { status, stdout } = await run(['commit', path('top')])
  t.equal(status, 0)
  t.match(stdout, /^committed '.*top' to '.*mid': 2.00 MiB copied, 0 B zeroed in .*, flushed\n$/)
  same(t, path, 'top')
  same(t, path, 'mid')
  t.ok(info(path('top'))['actual-size'] < size, 'it is empty')
  t.equal(info(path('top'))['backing-filename'], 'mid')
})

t.test('commit --keep leaves the image as it is', { skip }, async (t) => {
  const path = chain(t)
  t.match(await run(['commit', path('top'), '--keep', '--quiet']), { status: 0, stdout: '' })
  mustQemuImg('rebase', '-u', '-b', '', path('top'))
  const map = mustQemuImg('map', '--output=json', path('top'))
  t.match(JSON.parse(map)[1], { start: 2 << 20, data: true })
  same(t, path, 'mid')
})

t.test('commit -b goes further down', { skip }, async (t) => {
  const path = chain(t)
  t.match(await run(['commit', path('top'), '-b', path('base')]), { status: 0 })
  same(t, path, 'base')
  same(t, path, 'top')
})

t.test('an image that holds nothing, and one without layers', { skip }, async (t) => {
  const path = chain(t)
  mustQemuImg('create', '-q', '-f', 'qcow2', '-b', 'top', '-F', 'qcow2', path('new'))
  t.match(await run(['commit', path('new')]), { status: 0 })
  same(t, path, 'top')
  t.match(await run(['commit', path('base')]), { status: 1, stderr: /base' has no backing file\n$/ })
  t.match(await run(['commit', path('before')]), {
    status: 2,
    stderr: /is no qcow2 image: it has no layers\n$/,
  })
})

t.test('stream makes an image that stands alone', { skip }, async (t) => {
  const path = chain(t)
  t.match(await run(['stream', path('top')]), {
    status: 0,
    stdout: /^streamed into '.*top': 4.00 MiB copied/,
  })
  t.equal(info(path('top'))['backing-filename'], undefined)
  same(t, path, 'top')
})

t.test('stream --base keeps a layer below', { skip }, async (t) => {
  const path = chain(t)
  copyFileSync(path('base'), path('copy'))
  t.match(await run(['stream', path('top'), '--base', path('base')]), { status: 0 })
  t.equal(info(path('top'))['backing-filename'], path('base'))
  same(t, path, 'top')
  mustQemuImg('compare', path('base'), path('copy'))
  const wrong = await run(['stream', path('top'), '--base', path('copy')])
  t.match(wrong, { status: 1, stderr: /Can't find '.*copy' in the backing chain\n$/ })
})

const onto = [
  { name: 'mirror', args: ['mirror', '--existing', '-O', 'qcow2'] },
  { name: 'convert', args: ['convert'] },
  { name: 'convert to qcow2', args: ['convert', '-O', 'qcow2'] },
  { name: 'backup', args: ['backup', '--existing', '-O', 'qcow2'] },
]
for (const { name, args } of onto)
  t.test(`${name} onto a layer of its own source says so`, { skip }, async (t) => {
    const path = chain(t)
    const before = readFileSync(path('base'))
    const { status, stderr } = await run([...args, path('top'), path('base')])
    t.equal(status, 1)
    const text = `blockferry: cannot copy '${path('top')}' to '${path('base')}', which is a layer of it: `
    t.ok(stderr.startsWith(text), stderr)
    t.ok(readFileSync(path('base')).equals(before), 'it is as it was')
  })
