// SPDX-License-Identifier: Apache-2.0
// compress and decompress, over both engines. Oracles: Node's own zlib, and clusters that qemu-img has compressed.

import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readSync, realpathSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import t from 'tap'
import type { Codec, IoEngine, SlotRange } from '../../native/types.js'
import { parseL1Entry, parseL2Entry } from '../../protocol/qcow2/entries.js'
import { parseHeader } from '../../protocol/qcow2/header.js'
import { difference, engineFor, KIB, kinds, MIB, pattern, random, takeSlot } from './kinds.js'

const codecs: readonly Codec[] = ['zlib', 'zstd']
const EIO = 5
const EINVAL = 22
const ENOSPC = 28
const ELIBACC = 79
const CLUSTER = 64 * KIB
const qemuImg = spawnSync('qemu-img', ['--version']).error === undefined ? false : 'no qemu-img'
/** Other programs are run without the sanitizer this one may be run with. */
const { LD_PRELOAD: _, ...env } = process.env

/** Bytes that compress to about a half: runs of a letter, and letters at random. */
function mixed(length: number, seed = 1): Uint8Array {
  const below = random(seed)
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; ) {
    const run = 1 + below(40)
    if (below(2) === 0) bytes.fill(below(256), at, at + run)
    else for (let index = at; index < Math.min(at + run, length); index++) bytes[index] = below(64)
    at += run
  }
  return bytes
}

/** Puts bytes into a slot of their own. */
function placed(engine: IoEngine, bytes: Uint8Array, offset = 0): SlotRange {
  const slot = takeSlot(engine)
  engine.slotBytes(slot).set(bytes, offset)
  return { slot, offset, length: bytes.length }
}

function bytesOf(engine: IoEngine, { slot, offset, length }: SlotRange): Uint8Array {
  return engine.slotBytes(slot).subarray(offset, offset + length)
}

function room(engine: IoEngine, length: number, offset = 0): SlotRange {
  return { slot: takeSlot(engine), offset, length }
}

/** The compressed bytes of `bytes`, or why there are none. */
async function compressed(engine: IoEngine, codec: Codec, bytes: Uint8Array): Promise<Uint8Array | number> {
  const from = placed(engine, bytes)
  const into = room(engine, bytes.length)
  const made = await engine.compress(codec, from, bytes.length, 4, into)
  const found = bytesOf(engine, into).slice(0, Math.max(0, made))
  engine.giveSlots([from.slot, into.slot])
  if (made < 0) return made
  const size = new DataView(found.buffer).getUint32(0, true)
  return size === 0 ? -ENOSPC : found.subarray(4, 4 + size)
}

async function must(made: Promise<Uint8Array | number>): Promise<Uint8Array> {
  const bytes = await made
  if (typeof bytes === 'number') throw new Error(`compress: ${bytes}`)
  return bytes
}

for (const { aio, absent } of kinds) {
  for (const codec of codecs) {
    const name = `${aio}, ${codec}`

    t.test(`${name}: what was compressed comes back`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      for (const length of [512, 4 * KIB, CLUSTER, MIB]) {
        const bytes = mixed(length, length)
        const from = placed(engine, await must(compressed(engine, codec, bytes)), 77)
        const into = room(engine, length)
        t.ok(from.length < length, `${length} bytes became ${from.length}`)
        t.equal(await engine.decompress(codec, from, length, 0, into), length)
        t.equal(difference(bytesOf(engine, into), bytes), undefined)
        engine.giveSlots([from.slot, into.slot])
      }
    })

    t.test(
      `${name}: any part is had alone, and nothing beside it is touched`,
      { skip: absent },
      async (t) => {
        const engine = engineFor(t, { aio })
        const bytes = mixed(CLUSTER)
        const from = placed(engine, await must(compressed(engine, codec, bytes)))
        const parts = [
          { name: 'the start', skip: 0, length: 4 * KIB },
          { name: 'one byte', skip: 12345, length: 1 },
          { name: 'the end', skip: CLUSTER - 513, length: 513 },
        ]
        for (const part of parts) {
          const into = room(engine, part.length, 512)
          const slot = engine.slotBytes(into.slot).fill(0xee)
          t.equal(await engine.decompress(codec, from, CLUSTER, part.skip, into), part.length, part.name)
          t.equal(
            difference(bytesOf(engine, into), bytes.subarray(part.skip, part.skip + part.length)),
            undefined,
          )
          t.ok(slot.subarray(0, 512).every((byte) => byte === 0xee))
          t.ok(slot.subarray(512 + part.length).every((byte) => byte === 0xee))
          engine.giveSlots([into.slot])
        }
      },
    )

    t.test(`${name}: data may lie in several slots, on both sides`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio, slotSize: CLUSTER })
      const bytes = mixed(3 * CLUSTER)
      const from = [0, 1, 2].map((index) =>
        placed(engine, bytes.subarray(index * CLUSTER, (index + 1) * CLUSTER)),
      )
      const packed = [room(engine, 40 * KIB), room(engine, CLUSTER), room(engine, CLUSTER)]
      const made = await engine.compress(codec, from, 3 * CLUSTER, 4, packed)
      t.ok(made > 40 * KIB && made < 3 * CLUSTER, `${made} bytes`)
      const into = [room(engine, 1000), room(engine, CLUSTER)]
      const [first, ...rest] = packed.map((range, index) =>
        index > 0 ? range : { ...range, offset: 4, length: range.length - 4 },
      )
      if (first === undefined) return
      t.equal(await engine.decompress(codec, [first, ...rest], 3 * CLUSTER, 50_000, into), 1000 + CLUSTER)
      const found = Buffer.concat(into.map((range) => bytesOf(engine, range)))
      t.equal(difference(found, bytes.subarray(50_000, 51_000 + CLUSTER)), undefined)
    })

    t.test(`${name}: what does not get shorter is ENOSPC`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      const below = random(7)
      const noise = new Uint8Array(CLUSTER).map(() => below(256))
      t.equal(await compressed(engine, codec, noise), -ENOSPC)
      // The context is as good as new after it.
      t.ok((await must(compressed(engine, codec, pattern(CLUSTER)))).length < CLUSTER)
    })

    t.test(`${name}: the rest of the last sector is ignored`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = mixed(CLUSTER)
      const stream = await must(compressed(engine, codec, bytes))
      for (const filler of [0x00, 0xff, 0x28]) {
        const from = placed(engine, Buffer.concat([stream, Buffer.alloc(511, filler)]))
        const into = room(engine, CLUSTER)
        t.equal(await engine.decompress(codec, from, CLUSTER, 0, into), CLUSTER)
        t.equal(difference(bytesOf(engine, into), bytes), undefined)
        engine.giveSlots([from.slot, into.slot])
      }
    })

    t.test(`${name}: fewer bytes than there must be are EIO`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      const stream = await must(compressed(engine, codec, mixed(CLUSTER)))
      const into = room(engine, CLUSTER)
      const whole = placed(engine, stream)
      t.equal(await engine.decompress(codec, whole, CLUSTER + 1, 0, into), -EIO)
      const half = { ...whole, length: stream.length >> 1 }
      t.equal(await engine.decompress(codec, half, CLUSTER, 0, into), -EIO)
      t.equal(await engine.decompress(codec, whole, CLUSTER, 0, into), CLUSTER, 'and no harm is done')
    })

    t.test(
      `${name}: noise and damaged streams are errors or bytes, never harm`,
      { skip: absent },
      async (t) => {
        const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
        t.comment(`SEED=${seed}`)
        t.equal(await attack(engineFor(t, { aio, slotSize: 16 * KIB }), codec, random(seed)), undefined)
      },
    )

    t.test(
      `${name}: qemu-img's clusters are read, and are as long as ours`,
      { skip: absent || qemuImg },
      async (t) => {
        const engine = engineFor(t, { aio })
        const bytes = Buffer.concat([mixed(2 * MIB), pattern(MIB)])
        const folder = t.testdir({ 'disk.raw': bytes })
        const image = join(folder, 'disk.qcow2')
        const how = ['-c', '-f', 'raw', '-O', 'qcow2', '-o', `compression_type=${codec}`]
        t.equal(
          spawnSync('qemu-img', ['convert', ...how, join(folder, 'disk.raw'), image], { env }).status,
          0,
        )
        const clusters = compressedClusters(image)
        const last = Math.max(...clusters.map(({ offset }) => offset))
        // They lie one behind the other; the length of the last is not told.
        const theirs = last - Math.min(...clusters.map(({ offset }) => offset))
        let ours = 0
        for (const [index, { offset, stream }] of clusters.entries()) {
          const cluster = bytes.subarray(index * CLUSTER, (index + 1) * CLUSTER)
          const from = placed(engine, stream)
          const into = room(engine, CLUSTER)
          t.equal(await engine.decompress(codec, from, CLUSTER, 0, into), CLUSTER)
          t.equal(difference(bytesOf(engine, into), cluster), undefined)
          engine.giveSlots([from.slot, into.slot])
          if (offset !== last) ours += (await must(compressed(engine, codec, cluster))).length
        }
        t.ok(Math.abs(ours - theirs) < theirs * 0.02, `${ours} bytes, qemu-img ${theirs}`)
      },
    )
  }

  t.test(`${aio}: Node's zlib and ours read each other's streams`, { skip: absent }, async (t) => {
    const engine = engineFor(t, { aio })
    const bytes = mixed(CLUSTER)
    const ours = await must(compressed(engine, 'zlib', bytes))
    t.equal(difference(inflateRawSync(ours, { windowBits: 12 }), bytes), undefined)
    const from = placed(engine, deflateRawSync(bytes, { windowBits: 12 }))
    const into = room(engine, CLUSTER)
    t.equal(await engine.decompress('zlib', from, CLUSTER, 0, into), CLUSTER)
    t.equal(difference(bytesOf(engine, into), bytes), undefined)
  })

  t.test(
    `${aio}: more than a cluster is cut off in zlib, and an error in zstd`,
    { skip: absent },
    async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = mixed(CLUSTER)
      const into = room(engine, 4 * KIB)
      const zlib = placed(engine, await must(compressed(engine, 'zlib', bytes)))
      t.equal(await engine.decompress('zlib', zlib, 4 * KIB, 0, into), 4 * KIB)
      t.equal(difference(bytesOf(engine, into), bytes.subarray(0, 4 * KIB)), undefined)
      const zstd = placed(engine, await must(compressed(engine, 'zstd', bytes)))
      t.equal(await engine.decompress('zstd', zstd, 4 * KIB, 0, into), -EIO)
    },
  )

  t.test(`${aio}: zstd frames follow each other, empty ones among them`, { skip: absent }, async (t) => {
    const engine = engineFor(t, { aio })
    const bytes = mixed(CLUSTER)
    const one = await must(compressed(engine, 'zstd', bytes.subarray(0, 1000)))
    const other = await must(compressed(engine, 'zstd', bytes.subarray(1000)))
    const skipped = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9)
    const from = placed(engine, Buffer.concat([one, skipped, other]))
    const into = room(engine, CLUSTER)
    t.equal(await engine.decompress('zstd', from, CLUSTER, 0, into), CLUSTER)
    t.equal(difference(bytesOf(engine, into), bytes), undefined)
  })

  t.test(`${aio}: ranges outside of slots and results are refused`, { skip: absent }, async (t) => {
    const engine = engineFor(t, { aio, slotSize: 64 * KIB })
    const good = room(engine, 4 * KIB)
    const into = room(engine, 4 * KIB)
    const bad: readonly { name: string; range: SlotRange }[] = [
      { name: 'a slot nobody took', range: { ...good, slot: 60 } },
      { name: 'no slot at all', range: { ...good, slot: 2 ** 32 + good.slot } },
      { name: 'not a slot', range: { ...good, slot: Number.NaN } },
      { name: 'beyond the slot', range: { ...good, offset: 60 * KIB + 1 } },
      { name: 'before the slot', range: { ...good, offset: -1 } },
      { name: 'nothing', range: { ...good, length: 0 } },
    ]
    for (const { name, range } of bad) {
      t.equal(await engine.compress('zlib', range, 4 * KIB, 4, into), -EINVAL, `from ${name}`)
      t.equal(await engine.compress('zlib', good, 4 * KIB, 4, range), -EINVAL, `into ${name}`)
      t.equal(await engine.decompress('zlib', [good, range], 4 * KIB, 0, into), -EINVAL, `from ${name}`)
    }
    t.equal(await engine.compress('zlib', [], 4 * KIB, 4, into), -EINVAL)
    t.equal(await engine.decompress('zlib', good, 4 * KIB, 1, into), -EINVAL, 'beyond the result')
    t.equal(await engine.decompress('zlib', good, 4 * KIB, -1, into), -EINVAL, 'before the result')
    t.equal(await engine.decompress('zlib', good, 65 * MIB, 0, into), -EINVAL, 'a result too large')
  })

  t.test(`${aio}: computations use no more tasks than there are processors`, { skip: absent }, async (t) => {
    const engine = engineFor(t, { aio })
    const before = engine.stats().tasks
    const from = placed(engine, mixed(MIB))
    const rooms = Array.from({ length: 20 }, () => room(engine, MIB))
    const made = rooms.map((into) => engine.compress('zstd', from, MIB, 4, into))
    t.ok(engine.stats().tasks <= before + availableParallelism(), `${engine.stats().tasks} tasks`)
    const file = await engine.open(process.execPath, { write: false })
    t.ok(file > 0, 'I/O goes on meanwhile')
    const lengths = new Set(await Promise.all(made))
    t.equal(lengths.size, 1, 'the same bytes give the same length')
    t.ok([...lengths].every((length) => length > 0))
  })
}

t.test('a machine without libzstd has zlib, and is told what it lacks', { skip: cannotHide() }, (t) => {
  const script = `
    const { createEngine } = await import(${JSON.stringify(new URL('../../native/engine.js', import.meta.url))})
    const engine = createEngine({ aio: 'threads' })
    const [from, into] = engine.takeSlots(2).map((slot) => ({ slot, offset: 0, length: 65536 }))
    console.log(await engine.compress('zstd', from, 65536, 4, into), await engine.decompress('zstd', from, 65536, 0, into))
    console.log((await engine.compress('zlib', from, 65536, 4, into)) > 0)
    await engine.shutdown(1000)`
  const hidden = `mount --bind /dev/null "$0" && LD_PRELOAD="$1" exec "$2" --input-type=module -e "$3"`
  const values = [libraryPath() ?? '', process.env.LD_PRELOAD ?? '', process.execPath, script]
  const { stdout, stderr } = spawnSync('unshare', ['-m', 'sh', '-c', hidden, ...values], {
    encoding: 'utf8',
    env,
  })
  t.equal(stdout, `${-ELIBACC} ${-ELIBACC}\ntrue\n`, stderr)
  t.end()
})

function cannotHide(): string | false {
  if (libraryPath() === undefined) return 'no libzstd.so.1'
  return spawnSync('unshare', ['-m', 'true'], { env }).status === 0 ? false : 'needs a mount namespace'
}

/** The file behind libzstd.so.1, where qemu-img or anybody would find it. */
function libraryPath(): string | undefined {
  const { stdout } = spawnSync('ldconfig', ['-p'], { encoding: 'utf8', env })
  const found = /libzstd\.so\.1 .*=> (\S+)/.exec(stdout ?? '')?.[1]
  return found === undefined ? undefined : realpathSync(found)
}

/** Three thousand rounds of bytes made up or bent. @returns what went wrong first */
async function attack(
  engine: IoEngine,
  codec: Codec,
  below: (limit: number) => number,
): Promise<string | undefined> {
  const total = 4 * KIB
  const valid = await must(compressed(engine, codec, mixed(total, below(2 ** 31))))
  const lanes = Array.from({ length: 8 }, async () => {
    const [from, into] = [takeSlot(engine), takeSlot(engine)]
    for (let round = 0; round < 400; round++) {
      const bytes = below(4) === 0 ? noise(below, 1 + below(600)) : bent(valid, below)
      engine.slotBytes(from).set(bytes)
      const skip = below(2) === 0 ? 0 : below(total)
      const slot = engine.slotBytes(into).fill(0xee)
      const offset = below(1000)
      const result = await engine.decompress(
        codec,
        { slot: from, offset: 0, length: bytes.length },
        total,
        skip,
        {
          slot: into,
          offset,
          length: total - skip,
        },
      )
      if (result !== -EIO && result !== total - skip) return `round ${round}: ${result}`
      const beside = [slot.subarray(0, offset), slot.subarray(offset + total - skip)]
      if (beside.some((bytes) => !bytes.every((byte) => byte === 0xee))) return `round ${round}: strayed`
    }
    return undefined
  })
  return (await Promise.all(lanes)).find((problem) => problem !== undefined)
}

function noise(below: (limit: number) => number, length: number): Uint8Array {
  return new Uint8Array(length).map(() => below(256))
}

/** A stream with some bytes changed, and often cut or lengthened. */
function bent(valid: Uint8Array, below: (limit: number) => number): Uint8Array {
  const bytes = Uint8Array.from(valid)
  for (let changes = below(6); changes >= 0; changes--) bytes[below(bytes.length)] = below(256)
  if (below(3) === 0) return bytes.subarray(0, 1 + below(bytes.length))
  return below(3) === 0 ? Buffer.concat([bytes, noise(below, 1 + below(300))]) : bytes
}

/** The compressed clusters of an image whose clusters all are, by guest cluster, to the end of their last sector. */
function compressedClusters(image: string): { offset: number; stream: Uint8Array }[] {
  const fd = openSync(image, 'r')
  const at = (offset: number, length: number) => {
    const bytes = new Uint8Array(length)
    return bytes.subarray(0, readSync(fd, bytes, 0, length, offset))
  }
  const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const header = parseHeader(at(0, CLUSTER))
  const l2Table = view(at(parseL1Entry(view(at(header.l1Offset, 8)), 0).offset, CLUSTER))
  const clusters = Array.from({ length: header.size / CLUSTER }, (_, index) => {
    const entry = parseL2Entry(l2Table, index * 8, header.clusterBits, false)
    if (entry.kind !== 'compressed') throw new Error(`cluster ${index} is not compressed`)
    return { offset: entry.offset, stream: at(entry.offset, entry.length) }
  })
  closeSync(fd)
  return clusters
}
