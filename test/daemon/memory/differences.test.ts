// SPDX-License-Identifier: Apache-2.0
// diff and map against the naive reader: which pages differ, and pictures of memory.

import { readFileSync, truncateSync } from 'node:fs'
import t from 'tap'
import { streamNamed } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { convert, flip, PAGE, placed, RANDOM_PAGE } from './recorded.js'
import { fileSink, fileSource, inspect, spec, Worker } from './worker.js'

const MAPPED = 'q10-pc-q35-10.0-stopped.mapped'
const STREAM = 'q10-pc-q35-10.0-live.stream'

/** Pages that differ, as the naive reader has them. */
function different(one: Replay, other: Replay): { name: string; pages: number[] }[] {
  return one.blocks.map(({ name, memory }, index) => {
    const theirs = other.blocks[index]?.memory ?? Buffer.alloc(memory.length)
    const pages = Array.from({ length: memory.length / PAGE }, (_, page) => page)
    return {
      name,
      pages: pages.filter((page) =>
        Buffer.compare(
          memory.subarray(page * PAGE, (page + 1) * PAGE),
          theirs.subarray(page * PAGE, (page + 1) * PAGE),
        ),
      ),
    }
  })
}

for (const format of ['mapped-ram', 'stream'] as const) {
  const method = format === 'stream' ? 'checksums' : 'content'
  t.test(`diff tells the pages that differ, by ${method}`, async (t) => {
    const [one, stream] = [placed(t, MAPPED), placed(t, STREAM)]
    const other = `${stream}.${format}`
    await convert(t, stream, other, format)
    const wanted = different(new Replay(readFileSync(one), 0), new Replay(readFileSync(other), 0))
    const image = { file: { kind: 'path', path: other }, offset: 0, direct: true } as const
    const found = await inspect(t, 'diff', one, { other: image })
    t.match(found, { identical: false, method, states: 'different' })
    t.match(
      found.blocks,
      wanted.map(({ name, pages }) => ({ name, 'pages-different': pages.length })),
    )
    t.equal(found.blocks[0]?.['first-offset'], (wanted[0]?.pages[0] ?? 0) * PAGE)
    const mine = { file: { kind: 'path', path: one }, offset: 0, direct: true } as const
    const same = await inspect(t, 'diff', one, { other: mine })
    t.match(same, { identical: true, method: 'content', states: 'alike' })
    const map = await inspect(t, 'map', one, { other: image })
    t.equal(map['pages-per-cell'], 1)
    for (const [index, { pages }] of wanted.entries()) {
      const cells = [...Buffer.from(String(map.blocks[index]?.changed), 'base64')]
      t.same(
        cells.flatMap((share, page) => (share > 0 ? [page] : [])),
        pages,
      )
    }
  })
}

t.test('one byte in a page is a difference, in content and in checksums', async (t) => {
  const one = placed(t, MAPPED)
  const other = `${one}.other`
  await convert(t, one, other, 'mapped-ram')
  const { pages_offset: pages = 0 } = streamNamed(MAPPED).blocks?.[0] ?? {}
  flip(other, pages + RANDOM_PAGE + 7)
  const stream = `${one}.stream`
  await convert(t, other, stream, 'stream')
  for (const path of [other, stream]) {
    const image = { file: { kind: 'path', path }, offset: 0, direct: true } as const
    const found = await inspect(t, 'diff', one, { other: image })
    t.match(found, { identical: false, states: 'alike' })
    t.match(found.blocks[0], { 'pages-different': 1, 'first-offset': RANDOM_PAGE })
  }
})

t.test('what lies at the place of a zero page means nothing', async (t) => {
  const one = placed(t, MAPPED)
  const other = `${one}.other`
  await convert(t, one, other, 'mapped-ram', { digests: true })
  const { pages_offset: pages = 0 } = streamNamed(MAPPED).blocks?.[0] ?? {}
  const memory = new Replay(readFileSync(one), 0).blocks[0]?.memory ?? Buffer.alloc(0)
  const zero =
    1 +
    Array.from({ length: 100 }, (_, page) => page + 1).findIndex((page) =>
      memory.subarray(page * PAGE, (page + 1) * PAGE).every((byte) => byte === 0),
    )
  flip(other, pages + zero * PAGE + 9)
  const image = { file: { kind: 'path', path: other }, offset: 0, direct: true } as const
  t.match(await inspect(t, 'diff', one, { other: image }), { identical: true })
  t.match(await inspect(t, 'verify', other, { digests: `${other}.digests` }), { 'pages-different': 0 })
})

t.test('blocks that only one image has count as compared with zeroes', async (t) => {
  const one = placed(t, MAPPED)
  const other = `${one}.other`
  const renames = [{ from: 'pc.bios', to: 'other.bios' }]
  t.equal(
    await new Worker(t).run(spec(fileSource(one), fileSink(other, 'mapped-ram'), { renames })),
    undefined,
  )
  const image = { file: { kind: 'path', path: other }, offset: 0, direct: true } as const
  const { blocks } = await inspect(t, 'diff', one, { other: image })
  const byName = (name: string) => blocks.find((block) => block.name === name)
  t.same(byName('pc.bios'), {
    name: 'pc.bios',
    length: 262144,
    'pages-different': 47,
    'first-offset': byName('pc.bios')?.['first-offset'],
  })
  t.match(byName('other.bios'), { 'other-length': 262144, 'pages-different': 47 })
})

t.test('diff refuses what it cannot compare', async (t) => {
  const [one, deltas] = [placed(t, MAPPED), placed(t, 'q10-pc-q35-10.0-live-xbzrle.stream')]
  const image = { file: { kind: 'path', path: deltas }, offset: 0, direct: true } as const
  await t.rejects(
    inspect(t, 'diff', one, { other: image }),
    /13 pages .*XBZRLE.*convert it to mapped-ram first/,
  )
  truncateSync(one, 5_000_000)
  await t.rejects(inspect(t, 'map', one), /pc\.ram/)
  await t.rejects(inspect(t, 'info', `${one}.none`), /Could not open '.*none': No such file/)
})

t.test('a map has no more cells than were asked for, and a share for each', async (t) => {
  const path = placed(t, MAPPED)
  const fine = await inspect(t, 'map', path)
  const coarse = await inspect(t, 'map', path, { cells: 100 })
  const unit = Number(coarse['pages-per-cell'])
  t.equal(unit, 64)
  for (const [index, block] of fine.blocks.entries()) {
    const pages = [...Buffer.from(String(block.set), 'base64')]
    t.equal(pages.filter((share) => share === 255).length, block['set-pages'])
    t.equal(pages.filter((share) => share === 0).length, pages.length - Number(block['set-pages']))
    const cells = [...Buffer.from(String(coarse.blocks[index]?.set), 'base64')]
    t.equal(cells.length, Math.ceil(pages.length / unit))
    const kinds = cells.map((_, cell) => {
      const part = pages.slice(cell * unit, (cell + 1) * unit)
      return part.every((share) => share === 255)
        ? 'all'
        : part.some((share) => share === 255)
          ? 'some'
          : 'none'
    })
    t.same(
      cells.map((share) => (share === 255 ? 'all' : share > 0 ? 'some' : 'none')),
      kinds,
    )
  }
})
