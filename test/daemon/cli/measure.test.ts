// SPDX-License-Identifier: Apache-2.0
// measure tells what qemu-img tells of the same images and options, in the same words; and a copy needs no more than it says.

import { execFileSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installed } from '../../helpers/program.js'
import { qemuTools } from '../../helpers/qemu-tools.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const [KiB, MiB] = [2 ** 10, 2 ** 20]

/** A raw image: at each place bytes that are not zero. */
function holes(
  path: string,
  size: number,
  places: readonly (readonly [at: number, length: number])[],
): string {
  const file = openSync(path, 'w')
  ftruncateSync(file, size)
  for (const [at, length] of places) writeSync(file, Buffer.alloc(length, 7), 0, length, at)
  closeSync(file)
  return path
}

function img(...args: string[]): void {
  execFileSync('qemu-img', args, { stdio: ['ignore', 'ignore', 'inherit'] })
}

function qcow2(path: string, options: string, size: string, ...commands: string[]): string {
  const layer = options.split(' ').filter((word) => word !== '')
  img('create', '-q', '-f', 'qcow2', ...layer, path, ...(size === '' ? [] : [size]))
  io(path, ...commands)
  return path
}

function io(path: string, ...commands: string[]): void {
  const words = commands.flatMap((command) => ['-c', command])
  if (words.length > 0) execFileSync('qemu-io', ['-f', 'qcow2', ...words, path], { stdio: 'ignore' })
}

const writes = [
  'write -P 1 0 100k',
  'write -P 2 1M 64k',
  'write -z 2M 128k',
  'write -P 3 3M 4k',
  'write -zu 1M 32k',
]

/** Each makes an image. @returns what measure is told of it */
const sources: Readonly<Record<string, (folder: string) => string[]>> = {
  'raw with holes': (folder) => [rawWithHoles(folder)],
  'raw that ends in a sector': (folder) => [holes(join(folder, 'odd'), 3 * MiB + 1000, [[3 * MiB, 1000]])],
  'raw without data': (folder) => ['-f', 'raw', holes(join(folder, 'none'), 0, [])],
  'qcow2 with data and zero clusters': (folder) => [qcow2(join(folder, 'q'), '', '9M', ...writes)],
  'qcow2 of version 2': (folder) => [qcow2(join(folder, 'old'), '-o compat=0.10', '9M', ...writes)],
  'qcow2 as a raw image': (folder) => ['-f', 'raw', qcow2(join(folder, 'q'), '', '9M', ...writes)],
  'qcow2 by options': (folder) => [
    '--image-opts',
    `driver=qcow2,file.filename=${qcow2(join(folder, 'q'), '', '9M', ...writes)}`,
  ],
  'qcow2 with subclusters': (folder) => [qcow2(join(folder, 'sub'), '-o extended_l2=on', '9M', ...writes)],
  'qcow2 in small clusters': (folder) => [
    qcow2(join(folder, 'small'), '-o cluster_size=512', '9M', ...writes),
  ],
  'qcow2 with places for data': (folder) => [
    qcow2(join(folder, 'p'), '-o preallocation=metadata', '9M', ...writes),
  ],
  'qcow2 with a data file': (folder) => [
    qcow2(join(folder, 'd'), `-o data_file=${join(folder, 'data')}`, '9M', ...writes),
  ],
  compressed: (folder) => {
    const target = join(folder, 'c')
    img('convert', '-c', '-f', 'raw', '-O', 'qcow2', rawWithHoles(folder), target)
    return [target]
  },
  'a layer above qcow2': (folder) => {
    const base = qcow2(join(folder, 'base'), '', '9M', ...writes)
    const hidden = ['write -z 0 64k', 'write -P 4 3M 4k', 'write -P 5 8M 70k']
    return [qcow2(join(folder, 'top'), `-F qcow2 -b ${base}`, '', ...hidden)]
  },
  'a longer layer above raw': (folder) => [
    qcow2(join(folder, 'top'), `-F raw -b ${rawWithHoles(folder)}`, '20M', 'write -P 4 15M 4k'),
  ],
  'qcow2 with bitmaps': (folder) => {
    const disk = qcow2(join(folder, 'b'), '', '9M')
    img('bitmap', '--add', disk, 'monday')
    img('bitmap', '--add', '--disable', '-g', '512', disk, 'x'.repeat(1000))
    io(disk, ...writes)
    return [disk]
  },
  'a snapshot of qcow2 with bitmaps': (folder) => {
    const disk = qcow2(join(folder, 's'), '', '9M', 'write -P 1 0 1M')
    img('snapshot', '-c', 'monday', disk)
    img('bitmap', '--add', disk, 'tuesday')
    io(disk, 'write -P 2 0 8M')
    return ['-l', 'snapshot.name=monday', disk]
  },
}

function rawWithHoles(folder: string): string {
  const places = [
    [12 * KiB, 4 * KiB],
    [MiB - 4 * KiB, 8 * KiB],
    [5 * MiB, MiB],
    [7 * MiB + 100 * KiB, 4 * KiB],
  ] as const
  return holes(join(folder, 'raw'), 9 * MiB, places)
}

const targets: readonly (readonly string[])[] = [
  ['-O', 'raw'],
  ['-O', 'raw', '-o', 'preallocation=full'],
  ['-O', 'qcow2'],
  ['-O', 'qcow2', '--output=json'],
  ...[
    ...['cluster_size=512', 'cluster_size=512,refcount_bits=64', 'cluster_size=4k,refcount_bits=1'],
    ...['cluster_size=2M', 'extended_l2=on', 'extended_l2=on,cluster_size=16k', 'compat=0.10'],
    ...['preallocation=metadata', 'preallocation=falloc', 'preallocation=full'],
    ...['data_file=nowhere', 'data_file=nowhere,preallocation=full', 'lazy_refcounts=on,nocow=on'],
    ...['backing_file=nowhere,backing_fmt=raw', 'backing_file=nowhere', 'compression_type=zstd'],
  ].map((options) => ['-O', 'qcow2', '-o', options]),
]

/** Those that depend on what the source holds. */
const ofContents = targets.filter((words) =>
  /^-O (raw|qcow2( -o (cluster_size=(512|2M)|extended_l2=on|compat=0.10|backing_file=nowhere))?)$/.test(
    words.join(' '),
  ),
)

/** What we and all tools at hand say of the same. */
async function alike(t: Test, folder: string, words: readonly string[]): Promise<void> {
  const { status, stdout, stderr } = await run(['measure', ...words])
  t.same({ status, stderr }, { status: 0, stderr: '' }, words.join(' '))
  for (const { name, absent, run } of qemuTools)
    if (absent === false)
      t.equal(stdout, run(folder, 'qemu-img', 'measure', ...words), `${words.join(' ')}: ${name}`)
}

for (const [name, make] of Object.entries(sources))
  t.test(`measure prints what qemu-img prints: ${name}`, { skip }, async (t) => {
    const folder = t.testdir({})
    const words = make(folder)
    for (const target of name === 'raw with holes' ? targets : ofContents)
      await alike(t, folder, [...target, ...words])
  })

t.test('measure prints what qemu-img prints: a size alone', { skip }, async (t) => {
  const folder = t.testdir({})
  for (const target of targets)
    for (const size of ['0', '1000', '10M', '1T']) {
      if (size === '1T' && target.some((word) => word.includes('cluster_size=512'))) continue
      await alike(t, folder, [...target, '--size', size])
    }
  await alike(t, folder, ['--size', '8388607G'])
  await alike(t, folder, ['--size', '8388607G', '-O', 'qcow2', '-o', 'cluster_size=2M', '--output=json'])
})

for (const [options, expected] of [
  [[], 'required size: 9437184\nfully allocated size: 9437184\n'],
  [['-O', 'qcow2'], 'required size: 1638400\nfully allocated size: 9764864\n'],
  [['-O', 'qcow2', '-o', 'cluster_size=4k'], 'required size: 1105920\nfully allocated size: 9478144\n'],
  [['-O', 'qcow2', '--json'], '{\n    "required": 1638400,\n    "fully-allocated": 9764864\n}\n'],
] as const)
  t.test(`measure of a raw image with holes: ${options.join(' ')}`, async (t) => {
    const image = rawWithHoles(t.testdir({}))
    t.match(await run(['measure', ...options, image]), { status: 0, stdout: expected, stderr: '' })
  })

for (const [words, status, text] of [
  [[], 2, 'expected an image, or --size'],
  [['disk', '--size', '1G'], 2, 'an image and --size exclude each other'],
  [
    ['-f', 'raw', '--size', '1G'],
    2,
    '-f, --image-opts and -l say how an image is read, but there is only --size',
  ],
  [['--size', '1G', '-o', 'cluster_size=4k'], 2, "invalid option 'cluster_size' for -o and format 'raw'"],
  [['--size', '1G', '-o', 'backing_file=a'], 2, "backing file not supported for file format 'raw'"],
  [
    ['--size', '1G', '-o', 'preallocation=metadata'],
    2,
    "'preallocation' is one of off, falloc, full, found 'metadata'",
  ],
  [
    ['--size', '1G', '-O', 'qcow2', '-o', 'size=5'],
    2,
    "'size' is not for -o of measure: it is that of the image, or --size",
  ],
  [
    ['--size', '1G', '-O', 'qcow2', '-o', 'cluster_size=3k'],
    2,
    'Cluster size must be a power of two between 512 and 2048k',
  ],
  [
    ['--size', '1G', '-O', 'qcow2', '-o', 'refcount_bits=3'],
    2,
    'Refcount width must be a power of two and may not exceed 64 bits',
  ],
  [['--size', '4P', '-O', 'qcow2'], 1, 'The image size is too large (try using a larger cluster size)'],
  [['--size', '1G', '--json', '--output=human'], 2, '--json and --output=human exclude each other'],
  [['/nowhere/disk'], 1, "cannot open '/nowhere/disk': No such file or directory"],
] as const)
  t.test(`measure refuses: ${words.join(' ')}`, async (t) => {
    t.match(await run(['measure', ...words]), { status, stdout: '', stderr: `blockferry: ${text}\n` })
  })

t.test('measure -o help lists the options of the new image', async (t) => {
  t.match(await run(['measure', '-O', 'qcow2', '-o', 'help']), { status: 0, stdout: /^ {2}cluster_size=/m })
})

/** Data that take the most tables for what they are: a page of every second cluster, and all of another part. */
function scattered(folder: string): string {
  const pages = Array.from({ length: 64 }, (_, index) => [index * 128 * KiB + 60 * KiB, 4 * KiB] as const)
  return holes(join(folder, 'scattered'), 24 * MiB, [...pages, [8 * MiB, 3 * MiB + 12 * KiB]])
}

for (const options of [
  ...['cluster_size=64k', 'cluster_size=4k', 'cluster_size=2M', 'cluster_size=64k,refcount_bits=64'],
  ...['extended_l2=on', 'extended_l2=on,cluster_size=16k', 'preallocation=full', 'compat=0.10'],
])
  t.test(`a copy needs no more than measure says: ${options}`, async (t) => {
    const folder = t.testdir({})
    const source = scattered(folder)
    const target = join(folder, 'target')
    const words = ['-O', 'qcow2', '-o', options, source]
    const { required, ...all } = JSON.parse((await run(['measure', '--json', ...words])).stdout)
    t.match(await run(['convert', '-q', ...words, target]), { status: 0, stderr: '' })
    const { size } = statSync(target)
    t.ok(size <= required, `${size} of ${required}`)
    t.ok(required <= all['fully-allocated'])
  })
