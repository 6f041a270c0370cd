// SPDX-License-Identifier: Apache-2.0
// info, map, compare, convert and bench on real images, each against what qemu-img says of the same image.

import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { imageOptions } from '../../../daemon/cli/image-options.js'
import { sizeText } from '../../../daemon/cli/info-text.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const MiB = 1048576
const skip = installed('qemu-img') ? false : 'no qemu-img'

function sparse(path: string, size: number, places: readonly { at: number; fill: number }[]): string {
  const file = openSync(path, 'w')
  ftruncateSync(file, size)
  for (const { at, fill } of places) writeSync(file, Buffer.alloc(65536, fill), 0, 65536, at)
  closeSync(file)
  return path
}

function qemuImg(...args: string[]) {
  const { status, stdout } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  return { status, stdout }
}

function images(t: Test) {
  const folder = t.testdir({})
  const places = [
    { at: 0, fill: 1 },
    { at: 5 * MiB, fill: 2 },
  ]
  const a = sparse(join(folder, 'a'), 8 * MiB, places)
  const b = sparse(join(folder, 'b'), 8 * MiB, [...places, { at: MiB, fill: 0 }])
  const c = sparse(join(folder, 'c'), 8 * MiB, [...places, { at: MiB, fill: 9 }])
  const d = sparse(join(folder, 'd'), 9 * MiB, places)
  const e = sparse(join(folder, 'e'), 9 * MiB, [...places, { at: 8.5 * MiB, fill: 7 }])
  return { folder, a, b, c, d, e }
}

const pairs = [
  { name: 'alike', one: 'a', other: 'b', options: [] },
  { name: 'different content', one: 'a', other: 'c', options: [] },
  { name: 'different length', one: 'd', other: 'a', options: [] },
  { name: 'strictly different length', one: 'd', other: 'a', options: ['-s'] },
  { name: 'strictly different allocation', one: 'a', other: 'b', options: ['-s'] },
  { name: 'quiet', one: 'a', other: 'c', options: ['-q'] },
  { name: 'different length, different content before', one: 'c', other: 'd', options: [] },
  { name: 'the same, strictly', one: 'd', other: 'c', options: ['-s'] },
  { name: 'different length, content behind the end', one: 'a', other: 'e', options: [] },
  { name: 'the same the other way round', one: 'e', other: 'a', options: [] },
] as const

for (const { name, one, other, options } of pairs) {
  t.test(`compare says what qemu-img says: ${name}`, { skip }, async (t) => {
    const all = images(t)
    const args = ['compare', ...options, '-f', 'raw', '-F', 'raw', all[one], all[other]]
    const { status, stdout } = await run(args)
    t.same({ status, stdout }, qemuImg(...args))
  })
}

t.test('compare of an image that is not there ends with 2, not as a difference', async (t) => {
  const { a, folder } = images(t)
  const { status, stderr } = await run(['compare', a, join(folder, 'none')])
  t.equal(status, 2)
  t.match(stderr, /cannot open '.*none': No such file or directory\n$/)
})

t.test('info of a raw image is as qemu-img shows it', { skip }, async (t) => {
  const { a } = images(t)
  t.equal((await run(['info', '-f', 'raw', a])).stdout, qemuImg('info', '-f', 'raw', a).stdout)
  const json = await run(['info', '--output', 'json', a])
  t.same(JSON.parse(json.stdout), JSON.parse(qemuImg('info', '-f', 'raw', '--output=json', a).stdout))
})

t.test('map of a raw image tells the extents that qemu-img tells', { skip }, async (t) => {
  const { a } = images(t)
  const ours: Record<string, unknown>[] = JSON.parse((await run(['map', '--json', a])).stdout)
  const theirs = JSON.parse(qemuImg('map', '-f', 'raw', '--output=json', a).stdout)
  t.same(
    ours.map(({ compressed, ...extent }) => extent),
    theirs.map(({ compressed, ...extent }: Record<string, unknown>) => extent),
  )
})

t.test('options of a node stand for an image', async (t) => {
  const { a, folder } = images(t)
  const window = `driver=raw,offset=${5 * MiB},size=65536,file.driver=file,file.filename=${a}`
  const two = sparse(join(folder, 'two'), 65536, [{ at: 0, fill: 2 }])
  const nodeOf = (path: string) => `driver=file,filename=${path}`
  t.match(await run(['compare', '--image-opts', window, nodeOf(two)]), {
    status: 0,
    stdout: 'Images are identical.\n',
  })
  const short = `offset=5M,size=64k,read-only=y,file.filename=${a}`
  t.match(await run(['compare', '--image-opts', short, nodeOf(two)]), { status: 0 })
})

t.test('bench says what it sends, and sends it', { skip }, async (t) => {
  const { a } = images(t)
  const options = [
    '-w',
    '-c',
    '12',
    '-d',
    '3',
    '-s',
    '4k',
    '-S',
    '8k',
    '-o',
    '64k',
    '--pattern',
    '7',
    '-f',
    'raw',
  ]
  const { status, stdout } = await run(['bench', ...options, '--flush-interval', '6', a])
  t.equal(status, 0)
  const withoutTime = (text: string) => text.replace(/[0-9.]+ seconds/, 'N seconds')
  const theirs = qemuImg('bench', ...options, '--flush-interval=6', `${a}`)
  t.equal(withoutTime(stdout), withoutTime(theirs.stdout))
  const bytes = readFileSync(a)
  t.equal(bytes.indexOf(7), 65536)
  t.equal(bytes.lastIndexOf(7), 65536 + 11 * 8192 + 4095)
})

t.test('bench warns where raw is only guessed and written', async (t) => {
  const { a } = images(t)
  const stderr =
    `blockferry: warning: '${a}' was only guessed to be raw, so no beginning of an image of another format ` +
    'is written to it; name its format\n'
  t.match(await run(['bench', '-q', '-w', '-c', '3', a]), { status: 0, stderr })
  for (const more of [[], ['-w', '-f', 'raw']])
    t.match(await run(['bench', '-q', '-c', '3', ...more, a]), { status: 0, stderr: '' })
  const part = `offset=1M,file.filename=${a}`
  t.match(await run(['bench', '-q', '-w', '-c', '3', '--image-opts', part]), { status: 0, stderr: '' })
})

t.test('bench --help names the image', async (t) => {
  const { stdout } = await run(['bench', '--help'])
  t.match(stdout, /^ {2}image +file, block device/m)
  t.notMatch(stdout, 'words')
  t.match(await run(['bench']), { status: 2, stderr: /missing required argument 'image'/ })
})

const engines = [
  { words: ['-n', 'threads'] },
  { words: ['-n', 'native'] },
  { words: ['-n', '-t', 'none'] },
  { words: ['--aio', 'threads'] },
]
for (const { words } of engines) {
  t.test(`bench takes ${words.join(' ')}`, async (t) => {
    const { a } = images(t)
    t.match(await run(['bench', '-c', '3', ...words, a]), { status: 0, stderr: '' })
  })
}

t.test('bench refuses what qemu-img refuses, as a usage error', async (t) => {
  const { a } = images(t)
  const refused = [
    { args: ['--flush-interval', '5'], text: '--flush-interval is only available in write tests' },
    { args: ['-w', '--flush-interval', '5'], text: "Flush interval can't be smaller than depth" },
    { args: ['-d', '0'], text: 'Invalid queue depth specified' },
    { args: ['extra'], text: 'one image is expected' },
  ]
  for (const { args, text } of refused) {
    const { status, stderr } = await run(['bench', a, ...args])
    t.equal(status, 2)
    t.match(stderr, text)
  }
})

t.test('bench names the image with what the daemon refuses', async (t) => {
  const { a } = images(t)
  const { status, stderr } = await run(['bench', '-d', '1025', a])
  t.equal(status, 1)
  t.equal(stderr, `blockferry: cannot bench '${a}': Parameter 'depth' expects a value in range [1, 1024]\n`)
})

t.test('a request beyond the end ends bench with an error', async (t) => {
  const { a } = images(t)
  const { status, stderr } = await run(['bench', '-c', '3', '-o', '9M', a])
  t.same({ status, stderr }, { status: 1, stderr: `blockferry: cannot bench '${a}': Input/output error\n` })
})

t.test('convert to raw leaves holes, and with -S 0 none', async (t) => {
  const { folder, a } = images(t)
  const [thin, thick] = [join(folder, 'thin'), join(folder, 'thick')]
  t.match(await run(['convert', '-O', 'raw', a, thin]), { status: 0, stdout: /^converted '.*flushed\n$/ })
  t.same(await run(['convert', '-q', '-S', '0', a, thick]), { status: 0, stdout: '', stderr: '' })
  t.ok(readFileSync(thin).equals(readFileSync(a)))
  t.ok(readFileSync(thick).equals(readFileSync(a)))
  t.ok(statSync(thin).blocks * 512 <= MiB, 'thin')
  t.ok(statSync(thick).blocks * 512 >= 8 * MiB, 'thick')
})

t.test('convert refuses what does not go together, and makes nothing', async (t) => {
  const { folder, a } = images(t)
  const target = join(folder, 'new')
  const refused = [
    { args: ['-S', '100'], text: 'Expected 0 or a multiple of 512 up to 16777216' },
    { args: ['-S', '32M'], text: 'Expected 0 or a multiple of 512 up to 16777216' },
    { args: ['-m', '0'], text: 'Expected a number from 1 to 16' },
    { args: ['-m', '17'], text: 'Expected a number from 1 to 16' },
    { args: ['-c'], text: "images of format 'raw' cannot be compressed" },
    { args: ['--target-is-zero'], text: '--target-is-zero requires use of -n flag' },
    { args: ['-B', a], text: "backing file not supported for file format 'raw'" },
    { args: ['-O', 'qcow2', '-B', a], text: 'backing file specified without backing format (-F)' },
    { args: ['-O', 'qcow2', '-o', 'size_of_cluster=1'], text: "invalid option 'size_of_cluster'" },
    {
      args: ['-O', 'qcow2', '-o', 'size=1M'],
      text: "'size' is not for -o of convert: a copy is as long as its source",
    },
    { args: ['-O', 'qcow2', '-o', `data_file=${target}`], text: 'an image cannot be its own data file' },
  ]
  for (const { args, text } of refused) {
    const { status, stderr } = await run(['convert', ...args, a, target])
    t.equal(status, 2)
    t.match(stderr, text)
    t.throws(() => statSync(target), { code: 'ENOENT' })
  }
})

t.test('convert leaves a target alone that cannot be made as asked', { skip }, async (t) => {
  const { folder, a } = images(t)
  const target = join(folder, 'there')
  writeFileSync(target, 'precious')
  const wrong = [
    { args: ['-o', 'cluster_size=3000'], status: 1, text: /Cluster size must be a power of two/ },
    {
      args: ['-B', 'none', '-F', 'raw'],
      status: 1,
      text: /cannot open backing file 'none' of '.*': No such file/,
    },
    {
      args: ['-o', 'backing_file=none,backing_fmt=raw'],
      status: 1,
      text: /cannot open backing file 'none' of '.*': No such file/,
    },
    { args: ['-B', a, '-F', 'qcow2'], status: 1, text: /not in qcow2 format/ },
    { args: ['-B', 'there', '-F', 'raw'], status: 2, text: /cannot be its own backing file/ },
  ]
  for (const { args, status, text } of wrong) {
    const refused = await run(['convert', '-f', 'raw', '-O', 'qcow2', ...args, a, target])
    t.equal(refused.status, status)
    t.match(refused.stderr, text)
    t.equal(readFileSync(target, 'utf8'), 'precious')
  }
})

t.test('the bytes of an image of another format are not taken for its disk unasked', { skip }, async (t) => {
  const folder = t.testdir({})
  for (const format of ['vmdk', 'vdi', 'vpc', 'vhdx', 'qed', 'qcow']) {
    const image = join(folder, format)
    qemuImg('create', '-q', '-f', format, image, '1M')
    for (const args of [
      ['info', image],
      ['convert', image, join(folder, 'copy')],
    ]) {
      const refused = await run(args)
      t.equal(refused.status, 1)
      t.match(refused.stderr, `begins as an image of format '${format}', which is not read here`)
    }
    t.equal((await run(['info', '-f', 'raw', image])).status, 0)
  }
  t.throws(() => statSync(join(folder, 'copy')), { code: 'ENOENT' })
})

const chains = [
  { name: 'zlib', args: ['-c'] },
  { name: 'zstd', args: ['-c', '-o', 'compression_type=zstd'] },
  { name: 'compressed clusters of 2 MiB', args: ['-c', '-o', 'cluster_size=2M'] },
  { name: 'version 2 with clusters of 512 bytes', args: ['-o', 'compat=0.10,cluster_size=512'] },
  { name: 'subclusters', args: ['-o', 'extended_l2=on,cluster_size=128k'] },
  { name: 'a data file', args: ['-o', 'data_file=$/data,data_file_raw=on'] },
  { name: 'a layer above the same base', args: ['-B', '$/base', '-F', 'qcow2'] },
  { name: 'the same, named by an option', args: ['-o', 'backing_file=$/base,backing_fmt=qcow2'] },
  { name: 'a compressed layer', args: ['-c', '-B', '$/base', '-F', 'qcow2'] },
]

/** An image of 8 MiB above another; data, zeroes and compressed data in it. */
function layers(folder: string): { top: string; base: string } {
  const [top, base] = [join(folder, 'top'), join(folder, 'base')]
  const io = (path: string, ...commands: string[]) =>
    spawnSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path])
  qemuImg('create', '-f', 'qcow2', base, '8M')
  io(base, 'write -P 1 0 3M')
  qemuImg('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
  io(top, 'write -P 2 1M 1M', 'write -z 2M 512k', 'write -c -P 3 5M 64k')
  return { top, base }
}

for (const { name, args } of chains) {
  t.test(
    `convert of a chain makes an image that qemu-img finds equal and clean: ${name}`,
    { skip },
    async (t) => {
      const folder = t.testdir({})
      const { top } = layers(folder)
      const target = join(folder, 'new')
      const words = args.map((word) => word.replace('$', folder))
      t.match(await run(['convert', '-q', '-O', 'qcow2', ...words, top, target]), { status: 0, stderr: '' })
      t.equal(qemuImg('compare', top, target).stdout, 'Images are identical.\n')
      t.equal(qemuImg('check', target).status, 0)
    },
  )
}

t.test('preallocated storage stays where the source has zeroes', { skip }, async (t) => {
  const { folder, a } = images(t)
  const target = join(folder, 'new')
  await run(['convert', '-q', '-O', 'qcow2', '-o', 'preallocation=full', a, target])
  t.ok(statSync(target).blocks * 512 >= 8 * MiB)
  t.equal(qemuImg('compare', '-f', 'raw', a, target).status, 0)
})

for (const words of [['info'], ['info', '--backing-chain'], ['info', '--output=json'], ['map']])
  t.test(`${words.join(' ')} of a chain prints what qemu-img prints`, { skip }, async (t) => {
    const { top } = layers(t.testdir({}))
    t.equal((await run([...words, top])).stdout, qemuImg(...words, top).stdout)
  })

t.test('convert does not write over what its source lies above', { skip }, async (t) => {
  const { top, base } = layers(t.testdir({}))
  const before = readFileSync(base)
  for (const args of [[], ['-O', 'qcow2'], ['-O', 'qcow2', '-o', `data_file=${base}`]]) {
    const target = args.length > 2 ? `${base}-new` : base
    t.equal((await run(['convert', ...args, top, target])).status, 1)
    t.ok(readFileSync(base).equals(before))
  }
})

t.test('an existing target of unknown format does not become an image of another format', async (t) => {
  const { folder } = images(t)
  const [source, target] = [join(folder, 'source'), join(folder, 'target')]
  const disk = Buffer.alloc(65536)
  disk.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3])
  writeFileSync(source, disk)
  writeFileSync(target, Buffer.alloc(65536, 5))
  for (const args of [
    ['mirror', '--existing'],
    ['convert', '-n'],
  ]) {
    const { status, stderr } = await run([...args, '-f', 'raw', source, target])
    t.equal(status, 1)
    t.match(stderr, /only guessed to be raw, so the beginning of a qcow2 image is not written to it/)
    t.equal(readFileSync(target)[0], 5)
  }
  const names = ['-f', 'raw', '-O', 'raw']
  t.match(
    await run(['mirror', '--existing', ...names, source, target]),
    { status: 0 },
    'who names it gets it',
  )
  t.ok(readFileSync(target).equals(disk))
})

t.test('options of a new image have the names of qemu-img', async (t) => {
  const text = ['compat=0.10,cluster_size=2M,lazy_refcounts=on,refcount_bits=64', 'backing_file=a,,b']
  t.same(imageOptions('qcow2', [...text, 'data_file=d,size=1M']), {
    size: MiB,
    backing: 'a,b',
    backingFormat: undefined,
    dataFile: 'd',
    more: { version: 'v2', 'cluster-size': 2 * MiB, 'lazy-refcounts': true, 'refcount-bits': 64 },
  })
  t.throws(() => imageOptions('qcow2', ['lazy_refcounts=maybe']), /expects 'on' or 'off'/)
  t.throws(() => imageOptions('raw', ['cluster_size=1']), /'cluster_size' for -o and format 'raw'/)
})

t.test('sizes are written as qemu-img writes them', async (t) => {
  const sizes = { 0: '0 B', 999: '999 B', 1023: '0.999 KiB', 200704: '196 KiB', 1072693248: '0.999 GiB' }
  for (const [bytes, text] of Object.entries(sizes)) t.equal(sizeText(Number(bytes)), text)
})
