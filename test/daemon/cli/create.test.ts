// SPDX-License-Identifier: Apache-2.0
// `blockferry create` with its own daemon; qemu-img as oracle.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import t from 'tap'
import { Daemon } from '../../helpers/daemon.js'
import { installed } from '../../helpers/program.js'
import { Scratch } from '../../helpers/scratch.js'
import { run } from './run.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

function info(image: string): Record<string, unknown> {
  const { stdout } = spawnSync('qemu-img', ['info', '--output=json', image], { encoding: 'utf8' })
  return JSON.parse(stdout) as Record<string, unknown>
}

function checked(image: string): string {
  const { status, stdout, stderr } = spawnSync('qemu-img', ['check', image], { encoding: 'utf8' })
  return status === 0 ? 'clean' : stdout + stderr
}

t.test('a qcow2 image gets the options of qemu-img', { skip }, async (t) => {
  const image = join(t.testdir({}), 'a.qcow2')
  const options = 'cluster_size=16k,refcount_bits=1,extended_l2=on,compression_type=zstd,lazy_refcounts=yes'
  const made = await run(['create', '-f', 'qcow2', '-o', options, '-o', 'preallocation=full', image, '3M'])
  t.equal(made.stderr, '')
  t.match(made.stdout, `Formatting '${image}', fmt=qcow2 size=${3 * MiB} cluster_size=16384`)
  t.equal(checked(image), 'clean')
  t.match(info(image), {
    'virtual-size': 3 * MiB,
    'cluster-size': 16384,
    'format-specific': {
      data: { 'refcount-bits': 1, 'extended-l2': true, 'compression-type': 'zstd', 'lazy-refcounts': true },
    },
  })
})

t.test('an odd size is rounded up to whole sectors, and compat=0.10 is version 2', { skip }, async (t) => {
  const image = join(t.testdir({}), 'a.qcow2')
  const made = await run(['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', image, '1000'])
  t.same(made, { status: 0, stdout: '', stderr: '' })
  t.match(info(image), { 'virtual-size': 1024, 'format-specific': { data: { compat: '0.10' } } })
})

t.test('a raw image has its size and no storage', async (t) => {
  const image = join(t.testdir({}), 'a.img')
  t.equal((await run(['create', image, '2M'])).status, 0)
  t.match(statSync(image), { size: 2 * MiB, blocks: 0 })
})

t.test('the backing file is found beside the image and gives the size', { skip }, async (t) => {
  const folder = t.testdir({ 'base.img': '' })
  truncateSync(join(folder, 'base.img'), 5 * MiB)
  const image = join(folder, 'a.qcow2')
  const made = await run(['create', '-f', 'qcow2', '-b', 'base.img', '-F', 'raw', image])
  t.equal(made.stderr, '')
  t.match(info(image), {
    'virtual-size': 5 * MiB,
    'backing-filename': 'base.img',
    'backing-filename-format': 'raw',
  })
})

t.test('a backing file of an unknown format is named', async (t) => {
  const folder = t.testdir({ base: '' })
  const made = await run(['create', '-f', 'qcow2', '-b', 'base', '-F', 'vmdk', join(folder, 'image'), '1M'])
  t.match(made, { status: 2, stderr: "blockferry: cannot open backing file 'base': Unknown driver 'vmdk'\n" })
})

t.test('a backing file of an unknown format is named by who opens the image', { skip }, async (t) => {
  const folder = t.testdir({ base: 'x'.repeat(512) })
  const image = join(folder, 'image')
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-u', '-b', 'base', '-F', 'vmdk', image, '1M'])
  const text = `Could not open backing file: Could not open '${folder}/base': Unknown driver 'vmdk'`
  t.match(await run(['map', image]), { status: 1, stderr: text })
})

t.test('a data file is made, and named as it was given', { skip }, async (t) => {
  const folder = t.testdir({})
  const [image, data] = [join(folder, 'a.qcow2'), join(folder, 'with,comma')]
  const options = `data_file=${data.replace(',', ',,')},data_file_raw`
  const made = await run(['create', '-f', 'qcow2', '-o', options, image, '1M'])
  t.equal(made.stderr, '')
  t.match(info(image), { 'format-specific': { data: { 'data-file': data, 'data-file-raw': true } } })
  t.equal(statSync(data).size, MiB)
  t.equal(checked(image), 'clean')
})

t.test('a data file with a relative name is what qemu-img makes of it', { skip }, async (t) => {
  const folder = relative(process.cwd(), t.testdir({}))
  const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')]
  const layout = (image: string) => ['-f', 'qcow2', '-o', `data_file=${image}.data`, image, '1M']
  t.match(await run(['create', '-q', ...layout(ours)]), { status: 0, stderr: '' })
  t.equal(spawnSync('qemu-img', ['create', '-q', ...layout(theirs)]).status, 0)
  const asTheirs = (text: string) => text.replaceAll(ours, theirs)
  const facts = (image: string) => (info(image)['format-specific'] as Record<string, unknown>).data
  t.equal((facts(ours) as Record<string, unknown>)['data-file'], `${ours}.data`)
  t.same(JSON.parse(asTheirs(JSON.stringify(facts(ours)))), facts(theirs))
  t.equal(checked(ours), 'clean')
  const looks = (image: string) =>
    Promise.all([run(['info', '--output=json', image]), run(['map', '--json', image])])
  const [[ourInfo, ourMap], [theirInfo, theirMap]] = await Promise.all([looks(ours), looks(theirs)])
  t.same(JSON.parse(ourInfo.stdout)['format-specific'], info(ours)['format-specific'])
  t.same(JSON.parse(theirInfo.stdout)['format-specific'], info(theirs)['format-specific'])
  t.match(ourMap, { status: 0 })
  t.equal(asTheirs(ourMap.stdout), theirMap.stdout)
})

t.test('map names a data file as its image does, wherever the image lies', { skip }, async (t) => {
  const [here, data] = [join(t.testdir({ below: {} }), 'below/image'), relative(process.cwd(), t.testdirName)]
  const layout = ['-o', `data_file=${data}/data,preallocation=falloc`, here, '1M']
  t.equal(spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...layout]).status, 0)
  t.equal((await run(['map', here])).stdout, String(spawnSync('qemu-img', ['map', here]).stdout))
})

t.test('convert into an image with a data file of a relative name', { skip }, async (t) => {
  const folder = relative(process.cwd(), t.testdir({ disk: 'x'.repeat(65536) }))
  const image = join(folder, 'image')
  const options = ['-o', `data_file=${image}.data,data_file_raw=on`]
  t.match(await run(['convert', '-q', '-O', 'qcow2', ...options, join(folder, 'disk'), image]), { status: 0 })
  t.match(info(image), { 'format-specific': { data: { 'data-file': `${image}.data` } } })
  t.ok(readFileSync(`${image}.data`).equals(readFileSync(join(folder, 'disk'))))
})

t.test('a daemon elsewhere is told the whole name of a data file', { skip }, async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const folder = t.testdir({})
  const [image, data] = [join(folder, 'image'), join(folder, 'data')]
  const options = ['--socket', daemon.socket, '-o', `data_file=${relative(process.cwd(), data)}`]
  t.match(await run(['create', '-q', '-f', 'qcow2', ...options, image, '1M']), { status: 0, stderr: '' })
  t.match(info(image), { 'format-specific': { data: { 'data-file': data } } })
})

t.test('what fails leaves no new file, and tells why', async (t) => {
  const folder = t.testdir({ 'there.qcow2': 'precious' })
  const image = join(folder, 'a.qcow2')
  const bad = ['-f', 'qcow2', '-o', 'cluster_size=3000']
  const made = await run(['create', ...bad, image, '1M'])
  t.equal(made.status, 1)
  t.equal(
    made.stderr,
    `blockferry: cannot make '${image}': Cluster size must be a power of two between 512 and 2048k\n`,
  )
  t.notOk(existsSync(image))
})

t.test('an image and a data file that are there are made anew', { skip }, async (t) => {
  const folder = t.testdir({ 'a.qcow2': 'old', 'd.data': 'x'.repeat(2 * MiB) })
  const [image, data] = [join(folder, 'a.qcow2'), join(folder, 'd.data')]
  const made = await run(['create', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw`, image, '1M'])
  t.equal(made.stderr, '')
  t.equal(checked(image), 'clean')
  t.match(statSync(data), { size: MiB, blocks: 0 })
})

t.test('a layer of its own backing chain is not made anew', { skip }, async (t) => {
  const folder = t.testdir({})
  const [base, top] = [join(folder, 'base'), join(folder, 'top')]
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '1M'])
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top])
  const before = readFileSync(base)
  for (const args of [
    ['create', '-f', 'qcow2', '-b', top, '-F', 'qcow2', base],
    ['convert', '-O', 'qcow2', '-B', top, '-F', 'qcow2', join(folder, 'source'), base],
  ]) {
    writeFileSync(join(folder, 'source'), 'x')
    const made = await run(args)
    t.equal(made.status, 1)
    t.match(made.stderr, /'.*base' cannot lie above '.*top', which needs it/)
    t.ok(readFileSync(base).equals(before))
  }
})

t.test('an existing file keeps what it has when the new one is too large for its file system', async (t) => {
  const path = join(t.testdir({ a: 'precious' }), 'a')
  const made = await run(['create', path, '7P'])
  t.equal(made.status, 1)
  t.match(made.stderr, /Could not resize file/)
  t.equal(readFileSync(path, 'utf8'), 'precious')
})

const refusals: readonly { name: string; args: string[]; status: number; text: RegExp }[] = [
  { name: 'no size', args: ['-f', 'qcow2'], status: 2, text: /image creation needs a size/ },
  {
    name: 'two sizes',
    args: ['-f', 'qcow2', '-o', 'size=2M', '1M'],
    status: 2,
    text: /size must be specified only once/,
  },
  { name: 'no backing format', args: ['-f', 'qcow2', '-b', 'b'], status: 2, text: /without backing format/ },
  {
    name: 'no backing file',
    args: ['-f', 'qcow2', '-F', 'raw', '1M'],
    status: 2,
    text: /without backing file/,
  },
  { name: 'raw over a backing file', args: ['-b', 'b', '-F', 'raw'], status: 2, text: /not supported for/ },
  { name: 'itself', args: ['-f', 'qcow2', '-b', 'a', '-F', 'raw'], status: 2, text: /its own backing file/ },
  {
    name: 'a missing backing file',
    args: ['-f', 'qcow2', '-b', 'b', '-F', 'raw'],
    status: 1,
    text: /No such file/,
  },
  {
    name: 'encryption',
    args: ['-o', 'encrypt.format=luks', '1M'],
    status: 2,
    text: /encryption is not supported: 'encrypt.format'/,
  },
  { name: 'an unknown option', args: ['-o', 'frob=1', '1M'], status: 2, text: /invalid option 'frob'/ },
  { name: 'an option of qcow2', args: ['-o', 'cluster_size=1k', '1M'], status: 2, text: /'cluster_size'/ },
  {
    name: 'a wrong cluster size',
    args: ['-f', 'qcow2', '-o', 'cluster_size=3000', '1M'],
    status: 1,
    text: /Cluster size must be a power of two/,
  },
  {
    name: 'an unknown compression',
    args: ['-f', 'qcow2', '-o', 'compression_type=lz4', '1M'],
    status: 1,
    text: /value 'lz4'/,
  },
  {
    name: 'a data file for version 2',
    args: ['-f', 'qcow2', '-o', 'compat=0.10,data_file=d.data', '1M'],
    status: 1,
    text: /External data files/,
  },
  { name: 'an unknown word', args: ['-o', 'preallocation=some', '1M'], status: 1, text: /value 'some'/ },
  { name: 'no flag', args: ['-f', 'qcow2', '-o', 'extended_l2=2', '1M'], status: 2, text: /'on' or 'off'/ },
  {
    name: 'an unknown format',
    args: ['-f', 'vmdk', '1M'],
    status: 2,
    text: /Allowed choices are raw, qcow2/,
  },
]

for (const { name, args, status, text } of refusals) {
  t.test(`refused without touching the file: ${name}`, async (t) => {
    const image = join(t.testdir({}), 'a')
    writeFileSync(image, 'precious')
    const size = args.at(-1) === '1M' ? ['1M'] : []
    const made = await run(['create', ...args.slice(0, args.length - size.length), image, ...size])
    t.equal(made.status, status)
    t.match(made.stderr, text)
    t.equal(readFileSync(image, 'utf8'), 'precious')
  })
}
