// SPDX-License-Identifier: Apache-2.0
// What is found out about files: every recorded image against the manifest, and images that were damaged or cut off.

import { appendFileSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { PART_MARK } from '../../../daemon/memory/target-file.js'
import { type ExpectedStream, streams, unpack } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { mutate } from '../../helpers/mutate.js'
import { convert, flip, PAGE, placed, RANDOM_PAGE } from './recorded.js'
import { inspect, Worker } from './worker.js'

const MAPPED = 'q10-pc-q35-10.0-stopped.mapped'
const STREAM = 'q10-pc-q35-10.0-live.stream'

function offsetOf({ libvirt_header, start_offset }: ExpectedStream): number {
  return libvirt_header === undefined ? (start_offset ?? 0) : 0
}

for (const expected of streams.filter(({ kind }) => kind !== 'multifd-main')) {
  t.test(`info of ${expected.file}`, async (t) => {
    const path = join(t.testdir({}), 'file')
    writeFileSync(path, unpack(expected.file))
    const found = await inspect(t, 'info', path, { offset: offsetOf(expected) })
    const { configuration, libvirt_header: libvirt, blocks = [] } = expected
    const statesAt = expected.ram_end_footer_end ?? expected.tail_offset
    const layout = expected.kind === 'mapped-ram' ? 'mapped-ram' : 'stream'
    t.match(found, {
      'file-size': expected.size,
      format: libvirt === undefined ? layout : `libvirt-${libvirt.format === 0 ? 'raw' : 'sparse'}`,
      complete: true,
      machine: configuration.machine,
      'page-size': PAGE,
      capabilities: configuration.subsections.flatMap(({ caps = [] }) => caps),
      'states-offset': statesAt,
      'states-length': expected.tail_offset + expected.tail_length - statesAt,
    })
    t.match(
      found.blocks,
      blocks.map(({ name, used_length: length, nonzero_pages: set, pages_offset: at }) => ({
        ...{ name, length, 'set-pages': set, 'zero-pages': length / PAGE - set },
        ...(at !== undefined && { 'pages-offset': at }),
      })),
    )
    const sections = [...((found.early ?? []) as []), ...((found.sections ?? []) as [])] as Record<
      string,
      unknown
    >[]
    const names = sections.filter(({ name }) => name !== 'dirty-bitmap')
    t.same(
      names.map(({ name, instance }) => `${name}/${instance}`),
      expected.device_sections,
    )
    t.ok(names.every(({ version, length }) => Number(version) >= 0 && Number(length) > 0))
    t.notOk(found.problem)
    t.notOk(found['sections-problem'])
    const uuid = configuration.subsections.find((one) => one.uuid !== undefined)?.uuid
    if (uuid !== undefined) t.equal(String(found.uuid).replaceAll('-', ''), uuid.replaceAll('-', ''))
    const kept = expected.commands
      .filter(({ name }) => !/PING|RETURN_PATH/.test(name))
      .map(({ name }) => name)
    if (kept.length > 0) t.same(found.commands, kept)
  })
}

t.test('info tells how many pages came as changes, and verify does not mind them', async (t) => {
  const path = placed(t, 'q10-pc-q35-10.0-live-xbzrle.stream')
  t.equal((await inspect(t, 'info', path))['changed-pages'], 13)
  t.match(await inspect(t, 'verify', path), { sound: true, checksums: 'none' })
})

const cut = [
  { name: 'a mapped-ram file within its pages', file: MAPPED, at: 5_000_000, says: /pc\.ram.*5000000/ },
  { name: 'a mapped-ram file within its states', file: MAPPED, at: 23_080_000, says: /not complete/ },
  { name: 'a stream within its pages', file: STREAM, at: 1_000_000, says: /ends at offset 1000000, within/ },
  { name: 'a stream within its states', file: STREAM, at: 2_410_000, says: /not complete/ },
  { name: 'a stream within its head', file: STREAM, at: 20, says: /ends at offset 20, within/ },
  {
    name: 'a libvirt image within its XML',
    file: 'libvirt-11.3.0-raw.save',
    at: 3000,
    says: /header of a libvirt/,
  },
  { name: 'everything', file: STREAM, at: 0, says: /ends at offset 0, within its magic number/ },
]
for (const { name, file, at, says } of cut) {
  t.test(`info and verify say what is cut off: ${name}`, async (t) => {
    const path = placed(t, file)
    truncateSync(path, at)
    const found = await inspect(t, 'info', path)
    t.match(found, { complete: false, problem: says, 'file-size': at })
    t.match(await inspect(t, 'verify', path), { sound: false, problem: says })
  })
}

t.test('info tells what it knows of a file that is cut off', async (t) => {
  const mapped = placed(t, MAPPED)
  truncateSync(mapped, 5_000_000)
  t.match(await inspect(t, 'info', mapped), {
    machine: 'pc-q35-10.0',
    'missing-bytes': 2 ** 20 + 2 ** 24 - 5_000_000,
    blocks: [{ name: 'pc.ram', length: 2 ** 24, 'pages-offset': 2 ** 20 }],
  })
  const stream = placed(t, STREAM)
  truncateSync(stream, 1_000_000)
  const { blocks, machine } = await inspect(t, 'info', stream)
  t.equal(machine, 'pc-q35-10.0')
  const [ram] = blocks
  t.ok(Number(ram?.['set-pages']) > 100 && Number(ram?.['set-pages']) < 302, 'pages up to there')
})

t.test('info tells a part of a save from an image', async (t) => {
  const path = placed(t, MAPPED)
  const bytes = readFileSync(path)
  bytes.set(PART_MARK)
  writeFileSync(path, bytes)
  t.match(await inspect(t, 'info', path), { complete: false, problem: /did not come to an end/, blocks: [] })
  const libvirt = placed(t, 'libvirt-11.3.0-sparse.save')
  writeFileSync(
    libvirt,
    Buffer.from(readFileSync(libvirt).toString('latin1').replace('QemudSave', 'QemudPart'), 'latin1'),
  )
  t.match(await inspect(t, 'info', libvirt), {
    ...{ complete: false, format: 'libvirt-sparse', problem: /did not come to an end/ },
    libvirt: { complete: false, name: 'tiny' },
  })
})

for (const format of ['mapped-ram', 'stream'] as const) {
  t.test(`a flipped bit in a page is told by block and page: ${format}`, async (t) => {
    const source = placed(t, MAPPED)
    const path = `${source}.${format}`
    await convert(t, source, path, format, { digests: true })
    const bytes = readFileSync(path)
    const memory =
      new Replay(bytes, 0).blocks[0]?.memory.subarray(RANDOM_PAGE, RANDOM_PAGE + PAGE) ?? Buffer.alloc(0)
    const at = bytes.indexOf(memory)
    t.equal(bytes.indexOf(memory, at + 1), -1, 'it is there once')
    for (const page of [at, at + PAGE - 1]) flip(path, page)
    t.match(await inspect(t, 'verify', path, { digests: `${path}.digests` }), {
      ...{ sound: true, checksums: 'checked', states: 'alike', 'pages-different': 1, 'pages-checked': 4226 },
      blocks: [{ name: 'pc.ram', 'pages-different': 1, ranges: [{ offset: RANDOM_PAGE, length: PAGE }] }],
    })
  })
}

t.test('a flipped bit in the states of devices is told', async (t) => {
  const source = placed(t, MAPPED)
  const path = `${source}.copy`
  await convert(t, source, path, 'mapped-ram', { digests: true })
  const { sections } = await inspect(t, 'info', path)
  const cpu = (sections as { name: string; offset: number }[]).find(({ name }) => name === 'cpu')
  flip(path, (cpu?.offset ?? 0) + 100)
  const found = await inspect(t, 'verify', path, { digests: `${path}.digests` })
  t.match(found, { sound: true, checksums: 'checked', states: 'different', 'pages-different': 0 })
})

t.test('bytes behind an image, as on a device that is longer, are not its own', async (t) => {
  const source = placed(t, MAPPED)
  for (const [format, length, value] of [
    ['mapped-ram', 10_000, 7],
    ['stream', 10_000, 7],
    ['mapped-ram', 20 * 2 ** 20, 0],
    ['stream', 20 * 2 ** 20, 6],
  ] as const) {
    const path = `${source}.${format}`
    await convert(t, source, path, format, { digests: true })
    const whole = statSync(path).size
    appendFileSync(path, Buffer.alloc(length, value))
    const found = await inspect(t, 'verify', path, { digests: `${path}.digests` })
    t.match(found, { sound: true, states: 'alike', 'pages-different': 0 }, format)
    const copy = `${path}.copy`
    await convert(t, path, copy, format, { digests: true })
    t.equal(statSync(copy).size, whole, 'are not copied')
    t.match(await inspect(t, 'verify', copy, { digests: `${copy}.digests` }), {
      sound: true,
      states: 'alike',
    })
  }
})

t.test('checksums of another image are told by its states', async (t) => {
  const source = placed(t, MAPPED)
  const stream = placed(t, STREAM)
  const path = `${source}.saved`
  await convert(t, source, path, 'mapped-ram', { digests: true })
  // The image that replaces this one takes its checksums away.
  const digests = `${source}.kept`
  renameSync(`${path}.digests`, digests)
  await convert(t, stream, path, 'mapped-ram')
  const found = await inspect(t, 'verify', path, { digests })
  t.match(found, { sound: true, checksums: 'checked', states: 'different', 'pages-different': 173 })
  const older = placed(t, 'q72-pc-i440fx-7.2-live.stream')
  await convert(t, placed(t, 'libvirt-11.3.0-raw.save'), path, 'stream')
  t.match(await inspect(t, 'verify', path, { digests }), { checksums: 'other' })
  t.match(await inspect(t, 'verify', older, { digests }), { states: 'different' })
})

const damages = [
  { name: 'a digest', at: 5000, says: /checksums do not have the checksum/ },
  { name: 'the head', at: 30, says: /checksum of the head/ },
  { name: 'its length', at: undefined, says: /bytes, not the/ },
]
for (const { name, at, says } of damages) {
  t.test(`damaged checksums are no damage to the image: ${name}`, async (t) => {
    const source = placed(t, MAPPED)
    const path = `${source}.copy`
    await convert(t, source, path, 'mapped-ram', { digests: true })
    if (at === undefined) truncateSync(`${path}.digests`, 17_000)
    else flip(`${path}.digests`, at)
    const found = await inspect(t, 'verify', path, { digests: `${path}.digests` })
    t.match(found, { sound: true, checksums: 'damaged', 'checksums-problem': says })
  })
}

t.test('whatever is damaged, info and verify have something to tell', async (t) => {
  const random = seeded(Number(process.env.TEST_SEED ?? 11))
  for (const name of [MAPPED, STREAM, 'libvirt-11.3.0-sparse.save', 'q10-pc-q35-10.0-live-xbzrle.stream']) {
    const path = placed(t, name)
    const whole = unpack(name)
    for (let round = 0; round < 15; round++) {
      const bytes = Buffer.from(whole)
      mutate(bytes, round % 3 === 0 ? bytes.length : 4096, random)
      writeFileSync(path, bytes)
      t.type((await inspect(t, 'info', path)).complete, 'boolean')
      t.type((await inspect(t, 'verify', path)).sound, 'boolean')
    }
  }
})

/** Numbers that are the same in every run. */
function seeded(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * below)
  }
}

t.test('an inspection that is cancelled finds nothing, and leaves nothing open', async (t) => {
  const image = { file: { kind: 'path', path: placed(t, STREAM) }, offset: 0, direct: true } as const
  const worker = new Worker(t)
  const spec = {
    kind: 'inspect',
    what: 'info',
    image,
    other: undefined,
    digests: undefined,
    cells: 1,
  } as const
  await worker.start(spec)
  await worker.cancel()
  const { outcome, result } = await worker.ended()
  t.same({ outcome, result }, { outcome: { kind: 'cancelled' }, result: undefined })
})
