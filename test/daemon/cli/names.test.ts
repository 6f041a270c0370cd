// SPDX-License-Identifier: Apache-2.0
// Names of images that are more than a path, `json:{…}` and `file:NAME`, as qemu-img takes them.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

/** A qcow2 image with data, and the same as a raw one. */
function images(t: Test) {
  const folder = t.testdir({})
  const [qcow2, raw, target] = ['a.qcow2', 'a.raw', 'target'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  mustQemuImg('create', '-q', '-f', 'qcow2', qcow2, '4M')
  qemuIo(qcow2, 'write -P 1 1M 64k')
  mustQemuImg('convert', '-O', 'raw', qcow2, raw)
  return { folder, qcow2, raw, target }
}

const named = (options: object) => `json:${JSON.stringify(options)}`
const file = (filename: string) => ({ driver: 'file', filename })

const shapes = [
  { name: 'nested', of: (path: string) => named({ driver: 'qcow2', file: file(path) }) },
  {
    name: 'dotted',
    of: (path: string) => named({ driver: 'qcow2', 'file.driver': 'file', 'file.filename': path }),
  },
  { name: 'without a driver', of: (path: string) => named({ file: file(path) }) },
  { name: 'file:', of: (path: string) => `file:${path}` },
] as const

for (const { name, of } of shapes) {
  t.test(`an image is found by its name: ${name}`, { skip }, async (t) => {
    const { qcow2, raw, target } = images(t)
    const image = of(qcow2)
    for (const command of ['info', 'map', 'check'])
      t.equal((await run([command, image])).stdout, mustQemuImg(command, image), command)
    t.match(await run(['compare', image, raw]), { status: 0, stdout: 'Images are identical.\n' })
    t.match(await run(['convert', '-q', image, target]), { status: 0, stderr: '' })
    t.equal(Buffer.compare(readFileSync(target), readFileSync(raw)), 0)
    t.match(await run(['mirror', '-O', 'qcow2', image, `file:${target}`]), { status: 0 })
    t.match(mustQemuImg('compare', target, qcow2), /identical/)
    t.match(await run(['resize', '-q', image, '5M']), { status: 0, stderr: '' })
    t.match(mustQemuImg('info', qcow2), /virtual size: 5 MiB/)
  })
}

t.test('what info prints is taken back', { skip }, async (t) => {
  const { raw } = images(t)
  const options = { driver: 'raw', offset: '1M', size: 65536, file: file(raw) }
  const { stdout } = await run(['info', '--output', 'json', named(options)])
  const { filename } = JSON.parse(stdout)
  t.match(filename, /^json:/)
  t.match(await run(['info', '--output', 'json', filename]), { status: 0, stdout })
})

t.test('a format that is named goes before what the options say', { skip }, async (t) => {
  const { qcow2 } = images(t)
  const image = named({ driver: 'qcow2', file: file(qcow2) })
  const { stdout } = await run(['info', '-f', 'raw', image])
  t.equal(stdout, mustQemuImg('info', '-f', 'raw', image))
})

t.test('a file whose name begins so is named by a path', { skip }, async (t) => {
  const { folder, raw } = images(t)
  const bytes = readFileSync(raw)
  for (const name of ['file:x', 'json:{}']) {
    writeFileSync(join(folder, name), bytes)
    t.match(await run(['compare', `${folder}/${name}`, raw]), { status: 0 })
  }
  writeFileSync(join(folder, 'y'), bytes)
  t.match(await run(['info', `file:${folder}/file:x`]), { status: 0 })
  t.match(await run(['info', 'file:']), { status: 2, stderr: /a name, but one is empty/ })
})

const mistakes = [
  { text: 'json:{"driver":"qcow2","file', error: /Could not parse the JSON options: JSON parse error/ },
  { text: 'json:', error: /Could not parse the JSON options: Expecting a JSON value/ },
  { text: 'json:[1]', error: /Invalid JSON object given/ },
  { text: 'json:{"driver":"raw"} x', error: /Could not parse the JSON options/ },
  { text: 'json:{"filename":"a"}', error: /Must specify either driver or file/ },
  { text: 'json:{"driver":"file","filename":"a","quux":1}', error: /Parameter 'quux' is unexpected/ },
]
for (const { text, error } of mistakes) {
  t.test(`one line says what is wrong with ${text}`, async (t) => {
    for (const words of [['info'], ['compare', '/dev/null']]) {
      const { status, stderr } = await run([...words, text])
      t.equal(status, 2)
      t.ok(stderr.startsWith(`blockferry: '${text}': `) && stderr.indexOf('\n') === stderr.length - 1, stderr)
      t.match(stderr, error)
    }
  })
}

t.test('new images are named by paths', { skip }, async (t) => {
  const { qcow2, target } = images(t)
  const made = await run(['create', '-f', 'qcow2', `file:${target}`, '1M'])
  t.match(made, { status: 0, stdout: /^Formatting 'file:/ })
  t.match(mustQemuImg('info', target), /file format: qcow2/)
  const name = named(file(`${target}2`))
  for (const words of [
    ['create', name, '1M'],
    ['convert', qcow2, name],
    ['mirror', '--existing', qcow2, name],
  ]) {
    const { status, stderr } = await run(words)
    t.same(
      { status, stderr },
      { status: 2, stderr: `blockferry: expected a path, found options: '${name}'\n` },
    )
  }
  t.notOk(existsSync(`${target}2`))
})

t.test('nothing is copied onto itself, however deep its name is hidden', { skip }, async (t) => {
  const { qcow2, raw, target } = images(t)
  const nested = named({ driver: 'raw', file: { driver: 'qcow2', file: file(qcow2) } })
  const overlay = named({ driver: 'qcow2', file: file(qcow2), backing: { driver: 'raw', file: file(raw) } })
  const server = { type: 'unix', path: `${target}.sock` }
  const served = named({ driver: 'qcow2', file: { driver: 'nbd', export: 'x', server } })
  for (const words of [
    ['-U', nested, qcow2],
    ['-U', '-n', '-O', 'qcow2', qcow2, named({ driver: 'qcow2', file: file(qcow2) })],
    ['-U', overlay, raw],
    ['-n', '-O', 'raw', served, `nbd+unix:///x?socket=${target}.sock`],
  ])
    t.match(await run(['convert', ...words]), { status: 1, stderr: /onto itself/ }, words.join(' '))
})

t.test('what says that it is read-only is not written', { skip }, async (t) => {
  const { qcow2, raw } = images(t)
  const name = named({ driver: 'raw', 'read-only': true, file: file(raw) })
  t.match(await run(['convert', '-n', '-O', 'raw', qcow2, name]), { status: 2, stderr: /read-only\n$/ })
  const words = [
    'check',
    '-r',
    'all',
    '--image-opts',
    `driver=qcow2,file.read-only=on,file.filename=${qcow2}`,
  ]
  t.match(await run(words), { status: 1, stderr: /is to be repaired and says that it is read-only\n$/ })
  const more = ['check', '--image-opts', `driver=qcow2,lazy-refcounts=on,file.filename=${qcow2}`]
  t.match(await run(more), { status: 1, stderr: /takes the driver and the file, not 'lazy-refcounts'\n$/ })
})

t.test('convert -n writes into what options name', { skip }, async (t) => {
  const { qcow2, raw, target } = images(t)
  mustQemuImg('create', '-q', '-f', 'qcow2', target, '4M')
  const name = named({ driver: 'qcow2', file: file(target) })
  t.match(await run(['convert', '-q', '-n', raw, name]), { status: 0, stderr: '' })
  t.match(mustQemuImg('compare', '-f', 'qcow2', target, qcow2), /identical/)
  t.equal(qemuImg('check', target).status, 0)
  t.match(await run(['convert', '-n', '-O', 'qcow2', target, name]), { status: 1, stderr: /onto itself/ })
})

t.test('convert -n -c stores compressed where options say qcow2, without -O', { skip }, async (t) => {
  const { qcow2, raw, target } = images(t)
  mustQemuImg('create', '-q', '-f', 'qcow2', target, '4M')
  const compressed = /, 100.00% compressed clusters$/m
  t.match(await run(['convert', '-q', '-n', '-c', raw, named({ driver: 'qcow2', file: file(target) })]), {
    status: 0,
    stderr: '',
  })
  t.match(mustQemuImg('compare', '-f', 'qcow2', target, qcow2), /identical/)
  t.match(mustQemuImg('check', target), compressed)
  for (const words of [
    [raw, named({ driver: 'raw', file: file(target) })],
    [raw, target],
    ['-O', 'raw', raw, named({ driver: 'qcow2', file: file(target) })],
  ])
    t.match(await run(['convert', '-n', '-c', ...words]), {
      status: 2,
      stderr: "blockferry: images of format 'raw' cannot be compressed\n",
    })
  t.match(mustQemuImg('check', target), compressed)
})

t.test('a backing file may be named by file:', { skip }, async (t) => {
  const { folder, qcow2, raw, target } = images(t)
  t.match(await run(['create', '-f', 'qcow2', '-b', `file:${qcow2}`, '-F', 'qcow2', target]), { status: 0 })
  t.match(mustQemuImg('compare', '-F', 'raw', target, raw), /identical/)
  t.equal(
    (await run(['info', '--backing-chain', target])).stdout,
    mustQemuImg('info', '--backing-chain', target),
  )
  const onto = ['create', '-f', 'qcow2', '-b', `file:${target}`, '-F', 'qcow2', qcow2]
  t.match(await run(onto), { status: 1, stderr: /cannot lie above/ })
  const options = named({ driver: 'raw', file: file(raw) })
  t.match(await run(['create', '-f', 'qcow2', '-b', options, '-F', 'raw', join(folder, 'new')]), {
    status: 1,
    stderr: /cannot be a backing file here/,
  })
})

t.test('what users may name, an image may not', { skip }, async (t) => {
  const { folder, qcow2 } = images(t)
  const top = join(folder, 'top')
  const below = named({ driver: 'raw', file: { driver: 'nbd', server: { type: 'unix', path: '/none' } } })
  mustQemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', below, '-F', 'raw', top, '4M')
  t.match(await run(['compare', top, qcow2]), { status: 2, stderr: /Unknown driver 'nbd'/ })
  t.match(await run(['compare', below, qcow2]), { status: 2, stderr: /'\/none'/ })
})
