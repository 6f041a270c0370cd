// SPDX-License-Identifier: Apache-2.0
// Images that QEMU's tools made, with every feature: each reads here as qemu-img converts it, and what is written here
// is read by them.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { NodeDefinition, NodeSpec } from '../../../../../../daemon/iothread/messages.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { type QemuTools, qemuTools } from '../../../../../helpers/qemu-tools.js'
import { Scratch } from '../../../../../helpers/scratch.js'

interface Foreign {
  readonly name: string
  /** `qemu-img create -o`. */
  readonly options?: string
  /** Program and arguments; FOLDER and IMAGE stand for paths. Run before the image is made. */
  readonly before?: readonly string[]
  /** More arguments of create. */
  readonly create?: string
  /** `qemu-io` commands on the image. */
  readonly io?: readonly string[]
  /** The same, after everything else. */
  readonly after?: readonly string[]
}

const SIZE = 3 * 2 ** 20 + 512
const WRITES = ['write -P 1 0 300k', 'write -P 2 2M 100k', 'write -P 3 1000k 512', 'write -P 4 3M 512']
const ZEROES = ['write -z 64k 128k', 'write -z -u 2M 64k', 'discard 128k 64k', 'write -z 1500k 200k']
const BASE = [
  'img create -q -f qcow2 FOLDER/base.qcow2 2M',
  'io -f qcow2 -c "write -P 9 0 2M" FOLDER/base.qcow2',
]

const images: readonly Foreign[] = [
  { name: 'version 2', options: 'compat=0.10' },
  { name: 'version 2 with backing', options: 'compat=0.10', before: BASE, create: '-b base.qcow2 -F qcow2' },
  { name: 'clusters of 512 bytes', options: 'cluster_size=512' },
  { name: 'clusters of 2 MiB', options: 'cluster_size=2M' },
  { name: 'refcounts of 1 bit', options: 'refcount_bits=1' },
  { name: 'refcounts of 64 bits', options: 'refcount_bits=64,cluster_size=512' },
  { name: 'lazy refcounts', options: 'lazy_refcounts=on' },
  { name: 'compressed clusters, zlib', options: 'cluster_size=4k', io: ['write -c -P 5 8k 400k'] },
  { name: 'compressed clusters, zstd', options: 'compression_type=zstd', io: ['write -c -P 5 64k 640k'] },
  { name: 'compressed clusters of 2 MiB', options: 'cluster_size=2M', io: ['write -c -P 5 0 2M'] },
  { name: 'extended L2 entries', options: 'extended_l2=on' },
  {
    name: 'subclusters of every kind over backing',
    options: 'extended_l2=on,cluster_size=128k',
    before: BASE,
    create: '-b base.qcow2 -F qcow2',
    io: [
      'write -P 6 420k 4k',
      'write -z 428k 8k',
      'write -P 7 512k 1k',
      'write -c -P 8 640k 128k',
      'write -P 3 650k 4k',
    ],
  },
  {
    name: 'a backing file named by json:',
    before: BASE,
    create: `-F qcow2 -b json:{"driver":"qcow2","file":{"driver":"file","filename":"FOLDER/base.qcow2"}}`,
  },
  {
    name: 'a chain of relative names, the last of them raw',
    before: [
      'img create -q -f raw FOLDER/base.raw 5M',
      'io -f raw -c "write -P 9 1M 3M" FOLDER/base.raw',
      'img create -q -f qcow2 -b base.raw -F raw FOLDER/mid.qcow2 2500k',
      'io -f qcow2 -c "write -P 8 700k 1M" FOLDER/mid.qcow2',
    ],
    create: '-b mid.qcow2 -F qcow2',
  },
  { name: 'an external data file', options: 'data_file=FOLDER/disk.data' },
  { name: 'an external raw data file', options: 'data_file=FOLDER/disk.data,data_file_raw=on' },
  ...['metadata', 'falloc', 'full'].map((how) => ({
    name: `preallocation ${how}`,
    options: `preallocation=${how}`,
  })),
  {
    name: 'preallocated metadata of a data file',
    options: 'preallocation=metadata,data_file=FOLDER/disk.data',
  },
  {
    name: 'snapshots',
    after: [
      'img snapshot -c one IMAGE',
      'io -f qcow2 -c "write -P 7 32k 128k" IMAGE',
      'img snapshot -c two IMAGE',
    ],
  },
  { name: 'a bitmap', after: ['img bitmap --add IMAGE b0', 'io -f qcow2 -c "write -P 7 32k 128k" IMAGE'] },
]

class Bench {
  readonly #tools: QemuTools
  readonly folder: string

  constructor(t: Test, tools: QemuTools) {
    const scratch = new Scratch()
    t.teardown(() => scratch[Symbol.dispose]())
    this.#tools = tools
    this.folder = scratch.path
  }

  get image(): string {
    return `${this.folder}/disk.qcow2`
  }

  /** `img …` or `io …`; double quotes hold words together at the beginning of a word. */
  run(line: string): void {
    const full = line.replaceAll('FOLDER', this.folder).replaceAll('IMAGE', this.image)
    const [program, ...words] = full.match(/"[^"]*"(?= |$)|\S+/g) ?? []
    const args = words.map((word) => (word.startsWith('"') ? word.slice(1, -1) : word))
    this.#tools.run(this.folder, program === 'img' ? 'qemu-img' : 'qemu-io', ...args)
  }

  make({ options, before = [], create = '', io = [], after = [] }: Foreign): void {
    for (const line of before) this.run(line)
    this.run(`img create -q -f qcow2 ${options ? `-o ${options}` : ''} ${create} IMAGE ${SIZE}`)
    const writes = [...io, ...WRITES, ...ZEROES].map((command) => `-c "${command}"`).join(' ')
    this.run(`io -f qcow2 ${writes} IMAGE`)
    for (const line of after) this.run(line)
  }

  /** The disk as qemu-img reads it. */
  content(): Buffer {
    this.run('img convert -f qcow2 -O raw IMAGE FOLDER/converted')
    return readFileSync(`${this.folder}/converted`)
  }

  async open(g: TestGraph, dataFile: boolean, more: object = {}): Promise<void> {
    const file = (name: string): object => ({ driver: 'file', filename: `${this.folder}/${name}` })
    const data = dataFile ? { 'data-file': file('disk.data') } : {}
    const spec = { driver: 'qcow2', 'node-name': 'disk', file: file('disk.qcow2'), ...data, ...more }
    await g.graph.add(named(await g.graph.resolve(spec), 'disk'))
  }
}

/** Every definition with a name, as the main thread gives them. */
function named(definition: NodeDefinition, name: string): NodeSpec {
  const children = ['file', 'backing', 'data-file'].flatMap((role) => {
    const child = definition[role]
    const isDefinition = typeof child === 'object' && child !== null
    return isDefinition ? [[role, named(child as NodeDefinition, `${name}-${role}`)]] : []
  })
  const { implied: _, ...rest } = definition
  return { ...rest, ...Object.fromEntries(children), 'node-name': name }
}

async function readAll(g: TestGraph): Promise<Buffer> {
  const node = g.graph.node('disk')
  const pieces: Uint8Array[] = []
  for (let at = 0; at < node.length(); at += 700 * 512)
    pieces.push(await g.read(node, at, Math.min(700 * 512, node.length() - at)))
  return Buffer.concat(pieces)
}

for (const tools of qemuTools) {
  for (const foreign of images) {
    t.test(`${tools.name}, ${foreign.name}: read as qemu-img reads it`, { skip: tools.absent }, async (t) => {
      const bench = new Bench(t, tools)
      bench.make(foreign)
      const g = testGraph(t)
      const dataFile = foreign.options?.includes('data_file') ?? false
      await bench.open(g, dataFile, { 'read-only': true })
      t.ok((await readAll(g)).equals(bench.content()), 'the disk')
      await g.graph.remove('disk')

      await bench.open(g, dataFile, { discard: 'unmap' })
      const node = g.graph.node('disk')
      await g.write(node, 100 * 512, Buffer.alloc(300_032, 0x77))
      await node.zero(2 ** 20, 200_192, { unmap: true, fast: false })
      await g.write(node, 2_100_224, Buffer.alloc(1024, 0x78))
      const ours = await readAll(g)
      await g.graph.remove('disk')
      t.ok(ours.equals(bench.content()), 'the disk after writes')
      bench.run('img check -q -f qcow2 IMAGE')
    })
  }
}
