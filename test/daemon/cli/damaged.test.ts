// SPDX-License-Identifier: Apache-2.0
// Commands that meet damage in a qcow2 image name the file and say what is wrong with it, and nothing of the daemon's own names.

import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const OWN_NAME = /-[0-9a-f]{8}'/

/** The second cluster's entry points into the middle of one. */
function damaged(path: string): string {
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'])
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 128k', path])
  const file = openSync(path, 'r+')
  const word = Buffer.alloc(8)
  const at = (offset: number) => {
    readSync(file, word, 0, 8, offset)
    return Number(word.readBigUInt64BE() & 0xfffffffffffe00n)
  }
  const table = at(at(40))
  readSync(file, word, 0, 8, table + 8)
  word.writeBigUInt64BE(word.readBigUInt64BE() + 0x200n)
  writeSync(file, word, 0, 8, table + 8)
  closeSync(file)
  return path
}

const commands = [
  {
    name: 'convert',
    args: (image: string, other: string) => ['convert', '-O', 'raw', image, `${other}.copy`],
  },
  { name: 'compare', args: (image: string, other: string) => ['compare', image, other] },
  { name: 'map', args: (image: string) => ['map', image] },
]

for (const { name, args } of commands)
  t.test(`${name} says what is wrong with which image`, { skip }, async (t) => {
    const folder = t.testdir({})
    const image = damaged(join(folder, 'damaged.qcow2'))
    const other = join(folder, 'other')
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', other, '1M'])
    const { status, stderr } = await run(args(image, other))
    t.not(status, 0)
    t.match(stderr, `'${image}' is corrupt: `)
    t.match(stderr, /unaligned/i)
    t.notMatch(stderr, OWN_NAME)
  })

t.test('a convert that fails before it copies says so', { skip }, async (t) => {
  const folder = t.testdir({})
  const [image, target] = [join(folder, 'cut.qcow2'), join(folder, 'target')]
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '8M'])
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 8M', image])
  execFileSync('truncate', ['-s', '1M', image])
  const { status, stderr } = await run(['convert', image, target])
  t.equal(status, 1)
  t.match(stderr, /beyond the end of the file; '.*target' is incomplete: nothing was copied\n$/)
})

t.test('a file with the beginning of a header only is a short header to all', { skip }, async (t) => {
  const image = join(t.testdir({}), 'short')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', `${image}.whole`, '1M'])
  const bytes = readFileSync(`${image}.whole`)
  for (const length of [8, 15, 23, 24, 80, 103]) {
    writeFileSync(image, bytes.subarray(0, length))
    for (const command of ['info', 'map'])
      t.match(await run([command, image]), { status: 1, stderr: /: qcow2 header too short\n$/ }, command)
  }
})

t.test('a raw image that would become another one is called as its user calls it', { skip }, async (t) => {
  const folder = t.testdir({})
  const [source, target] = [join(folder, 'source'), join(folder, 'target')]
  const image = damaged(join(folder, 'x.qcow2'))
  writeFileSync(target, Buffer.alloc(1 << 20))
  execFileSync('cp', [image, source])
  execFileSync('truncate', ['-s', '1M', source])
  const { status, stderr } = await run(['convert', '-n', '-f', 'raw', source, target])
  t.equal(status, 1)
  t.match(stderr, `'${target}'`)
  t.notMatch(stderr, OWN_NAME)
})

function sound(path: string): string {
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'])
  return path
}

const layers = [
  { name: 'stream', makeBase: damaged, makeTop: sound, text: /^blockferry: cannot stream into '.*top': / },
  {
    name: 'commit',
    makeBase: sound,
    makeTop: damaged,
    text: /^blockferry: cannot commit '.*top' to '.*base': /,
  },
]

for (const { name, makeBase, makeTop, text } of layers)
  t.test(`${name} says which image it could not work on`, { skip }, async (t) => {
    const folder = t.testdir({})
    const [base, top] = [makeBase(join(folder, 'base')), makeTop(join(folder, 'top'))]
    execFileSync('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top])
    const { status, stderr } = await run([name, top])
    t.equal(status, 1)
    t.match(stderr, text)
    t.match(stderr, /unaligned/i)
    t.notMatch(stderr, OWN_NAME)
  })
