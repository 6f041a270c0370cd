// SPDX-License-Identifier: Apache-2.0

import { spawnSync } from 'node:child_process'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { createQcow2, type SlotSource } from '../../../../../../daemon/iothread/block/drivers/qcow2/create.js'
import type { Qcow2Options } from '../../../../../../daemon/iothread/messages.js'
import { usualImage } from '../../../../../../daemon/iothread/messages-create.js'
import { isQcow2 } from '../../../../../../protocol/qcow2/header.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'

const MiB = 2 ** 20
const GiB = 2 ** 30
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

const defaults = usualImage(64 * MiB)

class Workshop {
  readonly g: TestGraph
  readonly dir: string

  constructor(t: Test) {
    this.g = testGraph(t)
    this.dir = t.testdir({})
  }

  get slots(): SlotSource {
    const { engine } = this.g
    return {
      slotSize: engine.slotSize,
      acquire: async () => engine.takeSlots(1)[0]!,
      give: (slot) => engine.giveSlots([slot]),
      bytes: (slot) => engine.slotBytes(slot),
    }
  }

  path(name: string): string {
    return path.join(this.dir, name)
  }

  /** Makes an image over a file of that name; the nodes are closed again. */
  async make(name: string, more: Partial<Qcow2Options>, dataName?: string, old?: Buffer): Promise<string> {
    writeFileSync(this.path(name), old ?? '')
    const file = await this.g.add({ driver: 'file', 'node-name': 'f', filename: this.path(name) })
    const dataFile = dataName === undefined ? undefined : await this.#data(dataName)
    const options = { ...defaults, ...more, dataFileName: dataName && this.path(dataName) }
    try {
      await createQcow2({ file, dataFile, options, slots: this.slots, signal: new AbortController().signal })
    } finally {
      await this.g.graph.remove('f')
      if (dataName !== undefined) await this.g.graph.remove('d')
    }
    return this.path(name)
  }

  #data(name: string) {
    writeFileSync(this.path(name), '', { flag: 'a' })
    return this.g.add({ driver: 'file', 'node-name': 'd', filename: this.path(name) })
  }
}

function qemuImg(...args: string[]): { status: number | null; text: string } {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  return { status, text: stdout + stderr }
}

/** Asserts that QEMU finds nothing wrong with an image, and only zeroes in it. */
function clean(t: Test, image: string, size: number, name: string): void {
  const check = qemuImg('check', '-f', 'qcow2', image)
  t.equal(check.status, 0, `${name}: ${check.text}`)
  const info = JSON.parse(qemuImg('info', '--output=json', image).text) as { 'virtual-size': number }
  t.equal(info['virtual-size'], size, name)
  if (size > 0 && size <= GiB) {
    const zero = `json:{"driver":"raw","file":{"driver":"null-co","size":${size},"read-zeroes":true}}`
    const compared = qemuImg('compare', image, zero)
    t.equal(compared.status, 0, `${name}: ${compared.text}`)
  }
}

const kinds: readonly {
  name: string
  more: Partial<Qcow2Options>
  data?: boolean
}[] = [
  { name: 'defaults', more: {} },
  { name: 'nothing to hold', more: { size: 0 } },
  { name: 'one sector', more: { size: 512, preallocation: 'full' } },
  { name: 'version 2', more: { version: 2 } },
  { name: 'version 2, all tables', more: { version: 2, preallocation: 'metadata' } },
  { name: 'smallest clusters', more: { clusterSize: 512, size: 8 * MiB, preallocation: 'metadata' } },
  { name: 'smallest clusters, largest disk', more: { clusterSize: 512, size: 128 * GiB } },
  { name: 'largest clusters', more: { clusterSize: 2 * MiB, size: 9 * MiB, preallocation: 'falloc' } },
  { name: 'refcounts of one bit', more: { refcountBits: 1, preallocation: 'metadata', size: GiB } },
  { name: 'refcounts of 64 bits', more: { refcountBits: 64, preallocation: 'metadata', size: GiB } },
  {
    name: 'refcounts of 64 bits in smallest clusters',
    more: { refcountBits: 64, clusterSize: 512, size: 16 * MiB, preallocation: 'metadata' },
  },
  { name: 'extended entries', more: { extendedL2: true, preallocation: 'metadata' } },
  { name: 'zstd and lazy refcounts', more: { compression: 'zstd', lazyRefcounts: true } },
  { name: 'a size that fills no cluster', more: { size: 3 * MiB + 512, preallocation: 'full' } },
  { name: 'a data file', more: {}, data: true },
  { name: 'a data file, all tables', more: { preallocation: 'metadata' }, data: true },
  { name: 'a raw data file', more: { dataFileRaw: true }, data: true },
  { name: 'a raw data file, extended entries', more: { dataFileRaw: true, extendedL2: true }, data: true },
  { name: 'a petabyte', more: { size: 2 ** 50, clusterSize: 2 * MiB } },
]

t.test('every kind of new image is clean for qemu-img and reads as zeroes', { skip }, async (t) => {
  const shop = new Workshop(t)
  for (const [index, { name, more, data }] of kinds.entries()) {
    const image = await shop.make(`${index}.qcow2`, more, data ? `${index}.data` : undefined)
    clean(t, image, more.size ?? defaults.size, name)
  }
})

t.test('random options give clean images', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`SEED=${seed}`)
  const pick = random(seed)
  const of = <T>(list: readonly T[]): T => list[pick(list.length)]!
  const shop = new Workshop(t)
  for (let round = 0; round < 25; round++) {
    const version = of([2, 3, 3] as const)
    const clusterBits = 9 + pick(13)
    const data = version === 3 && pick(4) === 0
    const more: Partial<Qcow2Options> = {
      version,
      clusterSize: 2 ** clusterBits,
      refcountBits: version === 2 ? 16 : 2 ** pick(7),
      extendedL2: version === 3 && clusterBits >= 14 && pick(2) === 0,
      compression: version === 3 ? of(['zlib', 'zstd']) : 'zlib',
      preallocation: of(['off', 'metadata', 'falloc', 'full']),
      lazyRefcounts: version === 3 && pick(2) === 0,
      dataFileRaw: data && pick(2) === 0,
      size: 512 * pick(clusterBits < 12 ? 8192 : 65536),
    }
    const image = await shop.make('r.qcow2', more, data ? 'r.data' : undefined)
    clean(t, image, more.size ?? 0, `SEED=${seed} round ${round}: ${JSON.stringify(more)}`)
  }
})

t.test('an empty image takes no more storage than one of qemu-img', { skip }, async (t) => {
  const shop = new Workshop(t)
  for (const size of [MiB, 64 * GiB, 2 ** 40]) {
    const ours = statSync(await shop.make('ours.qcow2', { size }))
    qemuImg('create', '-q', '-f', 'qcow2', shop.path('theirs.qcow2'), String(size))
    const theirs = statSync(shop.path('theirs.qcow2'))
    t.ok(ours.blocks <= theirs.blocks, `${ours.blocks} <= ${theirs.blocks} blocks for ${size} bytes`)
    t.ok(ours.size <= theirs.size + defaults.clusterSize, `${ours.size} bytes long`)
  }
})

t.test('an image shows what it was asked to be', { skip }, async (t) => {
  const shop = new Workshop(t)
  qemuImg('create', '-q', '-f', 'qcow2', shop.path('base.qcow2'), '1M')
  const image = await shop.make('a.qcow2', {
    ...{ size: MiB, clusterSize: 16384, refcountBits: 8, extendedL2: true, lazyRefcounts: true },
    ...{ compression: 'zstd', backingFile: 'base.qcow2', backingFormat: 'qcow2', preallocation: 'metadata' },
  })
  const info = JSON.parse(qemuImg('info', '--output=json', image).text) as Record<string, unknown>
  t.match(info, {
    'cluster-size': 16384,
    'backing-filename': 'base.qcow2',
    'backing-filename-format': 'qcow2',
    'format-specific': {
      data: {
        compat: '1.1',
        'compression-type': 'zstd',
        'lazy-refcounts': true,
        'refcount-bits': 8,
        'extended-l2': true,
      },
    },
  })
})

t.test('a backing file shows through a preallocated image with extended entries', { skip }, async (t) => {
  const shop = new Workshop(t)
  writeFileSync(shop.path('base.raw'), Buffer.alloc(MiB, 7))
  const image = await shop.make('a.qcow2', {
    ...{ size: MiB, extendedL2: true, preallocation: 'metadata' },
    ...{ backingFile: 'base.raw', backingFormat: 'raw' },
  })
  t.equal(qemuImg('check', image).status, 0)
  const compared = qemuImg('compare', '-F', 'raw', image, shop.path('base.raw'))
  t.equal(compared.status, 0, compared.text)
})

t.test('the names of features give way to a backing file in the smallest clusters', { skip }, async (t) => {
  const shop = new Workshop(t)
  qemuImg('create', '-q', '-f', 'raw', shop.path('base.raw'), '1M')
  const fits = { size: MiB, clusterSize: 512, backingFormat: 'raw', backingFile: shop.path('base.raw') }
  t.equal(qemuImg('check', await shop.make('a.qcow2', fits)).status, 0)
  const backingFile = 'b'.repeat(500)
  await t.rejects(shop.make('b.qcow2', { ...fits, backingFile }), {
    message: `Could not assign backing file '${backingFile}' with format 'raw': No space left on device`,
  })
})

t.test('a raw data file that is there keeps its content and becomes the disk', { skip }, async (t) => {
  const shop = new Workshop(t)
  writeFileSync(shop.path('data.raw'), Buffer.alloc(MiB, 3))
  const more = { size: 2 * MiB, dataFileRaw: true, preallocation: 'full' } as const
  const image = await shop.make('a.qcow2', more, 'data.raw')
  t.equal(qemuImg('check', image).status, 0)
  const compared = qemuImg('compare', '-F', 'raw', image, shop.path('data.raw'))
  t.equal(compared.status, 0, compared.text)
  t.ok(readFileSync(shop.path('data.raw')).subarray(0, MiB).equals(Buffer.alloc(MiB, 3)))
})

t.test('a data file that is there does not show through a preallocated image', { skip }, async (t) => {
  const shop = new Workshop(t)
  writeFileSync(shop.path('data.raw'), Buffer.alloc(MiB, 3))
  clean(t, await shop.make('a.qcow2', { size: MiB, preallocation: 'metadata' }, 'data.raw'), MiB, 'data file')
})

t.test('what a file held before is gone', { skip }, async (t) => {
  const shop = new Workshop(t)
  const old = Buffer.alloc(2 * MiB, 0xff)
  const image = await shop.make('a.qcow2', { size: MiB, preallocation: 'metadata' }, undefined, old)
  clean(t, image, MiB, 'old content')
})

const fallocOrFull = ['falloc', 'full'] as const

t.test('preallocation with falloc and full gives the data storage', { skip }, async (t) => {
  const shop = new Workshop(t)
  for (const preallocation of fallocOrFull) {
    const { blocks } = statSync(await shop.make(`${preallocation}.qcow2`, { size: 4 * MiB, preallocation }))
    t.ok(blocks * 512 >= 4 * MiB, preallocation)
  }
  const { blocks } = statSync(await shop.make('metadata', { size: 4 * MiB, preallocation: 'metadata' }))
  t.ok(blocks * 512 < MiB)
})

t.test('a node that cannot be resized gets the image in place, or is refused', { skip }, async (t) => {
  const shop = new Workshop(t)
  const filename = shop.path('a.qcow2')
  writeFileSync(filename, Buffer.alloc(8 * MiB, 0xff))
  await shop.g.add({ driver: 'file', 'node-name': 'f', filename })
  const file = await shop.g.add({ driver: 'raw', 'node-name': 'r', size: 4 * MiB, file: 'f' })
  const make = (more: Partial<Qcow2Options>) =>
    createQcow2({
      ...{ file, dataFile: undefined, slots: shop.slots, signal: new AbortController().signal },
      options: { ...defaults, ...more },
    })
  await t.rejects(make({ size: 4 * MiB, preallocation: 'metadata' }), {
    message: 'Could not resize image: No space left on device',
  })
  await make({ size: 2 * MiB, preallocation: 'metadata' })
  clean(t, filename, 2 * MiB, 'in place')
})

const v3 = 'compatibility level 1.1 and above (use version=v3 or greater)'
const refusals: readonly { more: Partial<Qcow2Options>; data?: true; message: string }[] = [
  { more: { size: 100 }, message: 'Image size must be a multiple of 512 bytes' },
  { more: { size: -512 }, message: 'Could not resize image: Image size cannot be negative' },
  { more: { clusterSize: 3000 }, message: 'Cluster size must be a power of two between 512 and 2048k' },
  { more: { clusterSize: 0 }, message: 'Cluster size must be a power of two between 512 and 2048k' },
  { more: { clusterSize: 2 ** 22 }, message: 'Cluster size must be a power of two between 512 and 2048k' },
  { more: { extendedL2: true, version: 2 }, message: `Extended L2 entries are only supported with ${v3}` },
  {
    more: { extendedL2: true, clusterSize: 8192 },
    message: 'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes',
  },
  {
    more: { backingFile: 'a', preallocation: 'full' },
    message: 'Backing file and preallocation can only be used at the same time if extended_l2 is on',
  },
  { more: { backingFormat: 'raw' }, message: 'Backing format cannot be used without backing file' },
  { more: { lazyRefcounts: true, version: 2 }, message: `Lazy refcounts only supported with ${v3}` },
  { more: { refcountBits: 3 }, message: 'Refcount width must be a power of two and may not exceed 64 bits' },
  {
    more: { refcountBits: 128 },
    message: 'Refcount width must be a power of two and may not exceed 64 bits',
  },
  { more: { refcountBits: -1 }, message: 'Refcount width must be a power of two and may not exceed 64 bits' },
  {
    more: { refcountBits: 8, version: 2 },
    message: `Different refcount widths than 16 bits require ${v3.replace('and', 'or')}`,
  },
  { more: { dataFileRaw: true }, message: 'data-file-raw requires data-file' },
  {
    more: { dataFileRaw: true, backingFile: 'a' },
    data: true,
    message: 'Backing file and data-file-raw cannot be used at the same time',
  },
  { more: { version: 2 }, data: true, message: `External data files are only supported with ${v3}` },
  {
    more: { version: 2, compression: 'zstd' },
    message: `Non-zlib compression type is only supported with ${v3}`,
  },
  {
    more: { size: 2 ** 40, clusterSize: 512 },
    message: 'Could not resize image: Failed to grow the L1 table: File too large',
  },
  {
    more: { backingFile: 'x'.repeat(1024) },
    message: `Could not assign backing file '${'x'.repeat(1024)}' with format '(null)': Invalid argument`,
  },
]

t.test('what cannot be made is refused, and the file stays as it is', async (t) => {
  const shop = new Workshop(t)
  for (const { more, data, message } of refusals) {
    const old = Buffer.from('precious')
    await t.rejects(shop.make('a', more, data && 'd', old), { message }, message)
    t.equal(readFileSync(shop.path('a'), 'utf8'), 'precious', message)
  }
})

t.test('creation that fails at any write or flush leaves no qcow2 image', { skip }, async (t) => {
  const shop = new Workshop(t)
  const filename = shop.path('a.qcow2')
  const old = await shop.make('old.qcow2', {})
  let failures = 0
  for (const op of ['write', 'flush'] as const) {
    for (let nth = 1; ; nth++) {
      writeFileSync(filename, readFileSync(old))
      const inner = { driver: 'file', 'node-name': 'f', filename }
      const rules = [{ op, nth, errno: 5, ...(op === 'write' ? { tear: 4096 } : {}) }]
      const file = await shop.g.add({ driver: 'x-inject', 'node-name': 'i', file: inner, rules })
      const options: Qcow2Options = {
        ...defaults,
        size: 16 * MiB,
        clusterSize: 512,
        preallocation: 'metadata',
      }
      const signal = new AbortController().signal
      const made = await createQcow2({ file, dataFile: undefined, options, slots: shop.slots, signal }).then(
        () => true,
        () => false,
      )
      await shop.g.graph.remove('i')
      if (made) break
      failures++
      // The last two are the header and its flush: it is whole then, and so is the image.
      if (isQcow2(readFileSync(filename))) clean(t, filename, options.size, `${op} ${nth}`)
      else t.pass(`${op} ${nth} left nothing`)
    }
  }
  t.ok(failures >= 6, `${failures} failures`)
})

t.test('a cancelled creation leaves no image', async (t) => {
  const shop = new Workshop(t)
  const filename = shop.path('a.qcow2')
  writeFileSync(filename, '')
  const file = await shop.g.add({ driver: 'file', 'node-name': 'f', filename })
  const abort = new AbortController()
  abort.abort()
  const image = { file, dataFile: undefined, options: defaults, slots: shop.slots, signal: abort.signal }
  await t.rejects(createQcow2(image), { name: 'Cancelled' })
  t.notOk(isQcow2(readFileSync(filename)))
})
