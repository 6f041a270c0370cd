// SPDX-License-Identifier: Apache-2.0
// `blockferry info` of qcow2 images with every feature there is, member by member what qemu-img tells of the same image;
// and what both refuse.

import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { humanInfo } from '../../../daemon/cli/info-text.js'
import type { JsonObject } from '../../../protocol/json-value.js'
import { ExtensionType, formatHeader, type Header, parseHeader } from '../../../protocol/qcow2/header.js'
import { mustQemuImg, qemuImg } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { qemuTools } from '../../helpers/qemu-tools.js'
import { run } from './run.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

interface Case {
  readonly name: string
  /** For qemu-img create. */
  readonly options?: string
  /** Base image and its format, in the same folder. */
  readonly backing?: readonly [name: string, format: string]
  /** Its data lie beside it. */
  readonly dataFile?: true
  /** Done to the image when it is there. */
  readonly made?: (image: string) => void
}

function bytesOf(image: string, change: (bytes: Buffer) => void): void {
  const bytes = readFileSync(image)
  change(bytes)
  writeFileSync(image, bytes)
}

/** Another header, as long as the one that is there. */
function headerOf(change: (header: Header) => Partial<Header>) {
  return (image: string) =>
    bytesOf(image, (bytes) => {
      const header = parseHeader(bytes)
      bytes.set(formatHeader({ ...header, ...change(header) }))
    })
}

const add =
  (...args: string[]) =>
  (image: string) => {
    mustQemuImg('bitmap', '--add', ...args, image, 'b')
  }
const snapshot = (image: string) => {
  mustQemuImg('snapshot', '-c', 'first', image)
  mustQemuImg('snapshot', '-c', 'second', image)
}

/** Feature name table with one more name. @param kind  0: incompatible, 1: compatible, 2: autoclear */
function named(header: Header, kind: number, bit: number, name: string): Partial<Header> {
  const entry = Buffer.alloc(48)
  entry.set([kind, bit])
  entry.write(name, 2)
  const type = ExtensionType.featureNames
  const others = header.extensions.filter((extension) => extension.type !== type)
  return { extensions: [...others, { type, data: entry }] }
}

/** The only bitmap gets other flags. */
const bitmapFlags = (flags: number) => (image: string) => {
  add()(image)
  bytesOf(image, (bytes) => {
    const { extensions } = parseHeader(bytes)
    const data = Buffer.from(extensions.find(({ type }) => type === ExtensionType.bitmaps)?.data ?? [])
    bytes.writeUInt32BE(flags, Number(data.readBigUInt64BE(16)) + 12)
  })
}

const cases: readonly Case[] = [
  { name: 'version 3' },
  { name: 'version 2', options: 'compat=0.10' },
  ...['512', '2M'].map((size) => ({ name: `clusters of ${size}`, options: `cluster_size=${size}` })),
  ...['1', '64'].map((bits) => ({ name: `counts of ${bits} bits`, options: `refcount_bits=${bits}` })),
  { name: 'clusters with a place', options: 'preallocation=metadata' },
  { name: 'subclusters', options: 'extended_l2=on' },
  { name: 'lazy refcounts', options: 'lazy_refcounts=on' },
  { name: 'compression zstd', options: 'compression_type=zstd' },
  { name: 'a header without the type of compression', made: headerOf(() => ({ headerLength: 104 })) },
  {
    name: 'a header with fields nobody knows',
    made: headerOf(() => ({ headerLength: 128, unknownFields: new Uint8Array(16).fill(7) })),
  },
  { name: 'a data file', dataFile: true, options: 'data_file=data' },
  { name: 'a raw data file', dataFile: true, options: 'data_file=data,data_file_raw=on' },
  {
    name: 'the name of a data file, and no data file',
    made: headerOf(({ extensions }) => ({
      extensions: [...extensions, { type: ExtensionType.dataFile, data: Buffer.from('data') }],
    })),
  },
  { name: 'marked as dirty', made: headerOf(() => ({ incompatible: new Set([0]) })) },
  { name: 'marked as corrupt', made: headerOf(() => ({ incompatible: new Set([1]) })) },
  { name: 'both', made: headerOf(() => ({ incompatible: new Set([0, 1]) })) },
  { name: 'a bitmap', made: add() },
  { name: 'a bitmap that does not record', made: add('--disable') },
  { name: 'a bitmap of another granularity', made: add('-g', '4k') },
  { name: 'a bitmap in use', made: bitmapFlags(3) },
  { name: 'a bitmap in use that does not record', made: bitmapFlags(1) },
  {
    name: 'several bitmaps',
    made: (image) => {
      for (const name of ['one', 'two', 'three']) mustQemuImg('bitmap', '--add', image, name)
    },
  },
  {
    name: 'bitmaps that somebody wrote beside',
    made: (image) => {
      add()(image)
      headerOf(() => ({ autoclear: new Set() }))(image)
    },
  },
  { name: 'snapshots', made: snapshot },
  { name: 'snapshots of version 2', options: 'compat=0.10', made: snapshot },
  {
    name: 'a snapshot with the state of a machine',
    made: (image) => {
      snapshot(image)
      bytesOf(image, (bytes) => {
        const at = parseHeader(bytes).snapshotsOffset
        bytes.writeBigUInt64BE(3_723_004_000_005n, at + 24)
        bytes.writeUInt32BE(1234, at + 32)
        bytes.writeBigUInt64BE(5_000_000_000n, at + 40)
        bytes.writeBigUInt64BE(42n, at + 56)
      })
    },
  },
  { name: 'a backing file', backing: ['base.raw', 'raw'] },
  { name: 'a backing file of version 2', options: 'compat=0.10', backing: ['base.raw', 'raw'] },
  { name: 'a backing image', backing: ['base.qcow2', 'qcow2'] },
  {
    name: 'a backing file without a format',
    backing: ['base.raw', 'raw'],
    made: headerOf(() => ({ extensions: [] })),
  },
  {
    name: 'a backing file named by options',
    backing: ['json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}', 'raw'],
  },
  {
    name: 'all at once',
    options: 'cluster_size=128k,extended_l2=on,compression_type=zstd,refcount_bits=8,lazy_refcounts=on',
    backing: ['base.qcow2', 'qcow2'],
    made: (image) => {
      add('--disable')(image)
      snapshot(image)
    },
  },
  ...([0, 63] as const).map((bit) => ({
    name: `an unknown compatible bit: ${bit === 0 ? 1 : bit}`,
    made: headerOf(() => ({ compatible: new Set([0, bit === 0 ? 1 : bit]) })),
  })),
  { name: 'an unknown autoclear bit', made: headerOf(() => ({ autoclear: new Set([40]) })) },
  {
    name: 'unknown bits that have names',
    made: headerOf((header) => ({
      ...{ compatible: new Set([9]), autoclear: new Set([9]) },
      ...named(header, 1, 9, 'marvel'),
    })),
  },
  { name: 'no names of features', made: headerOf(() => ({ extensions: [] })) },
  {
    name: 'an extension nobody knows',
    made: headerOf(({ extensions }) => ({
      extensions: [...extensions, { type: 0x12345678, data: Buffer.from('abc') }],
    })),
  },
]

function makeImage(folder: string, { options, backing, made }: Case): string {
  const path = (name: string) => join(folder, name)
  mustQemuImg('create', '-q', '-f', 'raw', path('base.raw'), '1M')
  mustQemuImg('create', '-q', '-f', 'qcow2', path('base.qcow2'), '1M')
  const image = path('disk.qcow2')
  const full = options?.replace('data_file=', `data_file=${folder}/`)
  const [name, format] = backing ?? []
  mustQemuImg(
    ...['create', '-q', '-u', '-f', 'qcow2'],
    ...(full === undefined ? [] : ['-o', full]),
    ...(name === undefined || format === undefined ? [] : ['-b', name, '-F', format]),
    ...[image, '2M'],
  )
  made?.(image)
  return image
}

for (const one of cases) {
  t.test(`info tells what qemu-img tells: ${one.name}`, { skip }, async (t) => {
    const folder = t.testdir({})
    const image = makeImage(folder, one)
    const ours = await run(['info', '--output', 'json', image])
    t.equal(ours.stderr, '')
    const found: JsonObject = JSON.parse(ours.stdout || '{}')
    for (const tools of qemuTools) {
      if (tools.absent !== false) continue
      // Newer ones tell of the file below too.
      const told = tools.run(folder, 'qemu-img', 'info', '--output=json', image)
      const { children, ...theirs } = JSON.parse(told)
      // They leave out what the disk takes beside the image.
      if (one.dataFile) theirs['actual-size'] += statSync(join(folder, 'data')).blocks * 512
      t.same(found, theirs, tools.name)
      if (children !== undefined || one.dataFile) continue
      t.equal(humanInfo(found), tools.run(folder, 'qemu-img', 'info', image), 'for people')
    }
  })
}

t.test('info of a disk that ends inside a sector tells all of it', { skip }, async (t) => {
  const image = makeImage(t.testdir({}), { name: '', made: headerOf(() => ({ size: 2 ** 20 + 1 })) })
  t.match(JSON.parse((await run(['info', '--output', 'json', image])).stdout), {
    'virtual-size': 2 ** 20 + 512,
  })
})

t.test('info of a snapshot whose name has letters of more than one byte', { skip }, async (t) => {
  const image = makeImage(t.testdir({}), { name: '' })
  mustQemuImg('snapshot', '-c', 'zweiter Stand ä', image)
  const { stdout } = await run(['info', '--output', 'json', image])
  t.match(JSON.parse(stdout), {
    snapshots: JSON.parse(mustQemuImg('info', '--output=json', image)).snapshots,
  })
})

interface Refused extends Case {
  readonly message: string
  /** qemu-img can tell of it, without reading what it holds. */
  readonly theyTell?: true
}

const refused: readonly Refused[] = [
  {
    name: 'an encrypted image',
    made: headerOf(() => ({ encryption: 'aes' })),
    message: 'Encrypted images (aes) are not supported',
    theyTell: true,
  },
  {
    name: 'an unknown incompatible bit',
    made: headerOf(() => ({ incompatible: new Set([40]), extensions: [] })),
    message: 'Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000',
  },
  {
    name: 'unknown incompatible bits, one of which has a name',
    made: headerOf((header) => ({ incompatible: new Set([9, 40]), ...named(header, 0, 9, 'marvel') })),
    message: 'Unsupported qcow2 feature(s): marvel, Unknown incompatible feature: 10000000000',
  },
]

for (const one of refused) {
  t.test(`info refuses ${one.name}`, { skip }, async (t) => {
    const image = makeImage(t.testdir({}), one)
    const { status, stdout, stderr } = await run(['info', '--output', 'json', image])
    t.match({ status, stdout }, { status: 1, stdout: '' })
    t.ok(stderr.includes(one.message), stderr)
    if (!one.theyTell) t.ok(qemuImg('info', image).stderr.includes(one.message))
  })
}
