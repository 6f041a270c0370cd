// SPDX-License-Identifier: Apache-2.0
// Recorded images that end too early, as files and over connections: wherever they are cut, the transfer fails with one error
// that names them, and there is no target. SEED repeats a run.

import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { newSeed, random } from '../../helpers/graph.js'
import { channelsOf, type ExpectedStream, nameOf, streams, unpack } from '../../helpers/migration/fixtures.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt, listening, send, traces } from './attempt.js'
import { type FileSink, fileSink, fileSource, spec } from './worker.js'

const RANDOM_CUTS = 4
const domain = { xml: '<domain/>', running: true }
const formats = ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'] as const

const seed = newSeed()
t.comment(`seed ${seed}`)
const below = random(seed)

/** Where something begins or ends, the bytes beside it, and some places anywhere; the longest first. */
function cuts(expected: ExpectedStream, size: number): number[] {
  const start = expected.start_offset ?? 0
  const { tail_offset, eof_offset, vmdesc_length, ram_end_footer_end, early_section } = expected
  const edges = [
    ...[0, 16, 92, start, start + 4, start + 8, start + 13],
    ...(expected.blocks ?? []).flatMap(({ header_offset, bitmap_offset, pages_offset, used_length }) => [
      ...[header_offset, bitmap_offset, pages_offset],
      pages_offset === undefined ? undefined : pages_offset + used_length,
    ]),
    ...[early_section?.offset, ram_end_footer_end, tail_offset, eof_offset, eof_offset + 6],
    ...[eof_offset + 6 + vmdesc_length, size],
    ...Array.from({ length: RANDOM_CUTS }, () => below(size)),
  ].filter((edge) => edge !== undefined)
  const near = [...new Set(edges.flatMap((edge) => [edge - 1, edge]))]
  // Some hundred thousand sections take their time.
  const step = expected.other_sections_before_ram_end === undefined ? 1 : 6
  return near
    .filter((cut, index) => cut >= 0 && cut < size && index % step === 0)
    .sort((one, other) => other - one)
}

function sinkAt(path: string): FileSink {
  const format = formats[below(formats.length)] ?? 'stream'
  return fileSink(path, format, format.startsWith('libvirt') ? { domain } : {})
}

/** What is wrong with how it failed, or undefined. */
function wrong(error: string | undefined, named: string, left: readonly string[]): string | undefined {
  if (error === undefined) return 'it succeeded'
  if (!error.includes(named)) return `does not name its source: ${error}`
  if (
    !/ ends |ended before|leaves out|not complete|neither|magic number|is a part|shorter|nothing behind|device states behind/.test(
      error,
    )
  )
    return `does not say that something is missing: ${error}`
  return left.length > 0 ? `left ${left}: ${error}` : undefined
}

/** Cuts a recording everywhere and compares how each attempt failed. */
async function everywhere(
  t: Test,
  lengths: readonly number[],
  one: (cut: number) => Promise<string | undefined>,
): Promise<void> {
  const found: string[] = []
  for (const cut of lengths) {
    const problem = await one(cut)
    if (problem !== undefined) found.push(`cut at ${cut}: ${problem}`)
  }
  t.same(found, [], `${lengths.length} cuts`)
}

for (const expected of streams.filter(({ kind }) => kind !== 'multifd-main')) {
  const name = nameOf(expected.file)
  t.test(`no part of the file ${name} becomes an image`, async (t) => {
    const folder = t.testdir()
    const bytes = unpack(name)
    const path = join(folder, name)
    writeFileSync(path, bytes)
    const target = join(folder, 'target')
    const offset = expected.libvirt_header === undefined ? (expected.start_offset ?? 0) : 0
    await everywhere(t, cuts(expected, bytes.length), async (cut) => {
      truncateSync(path, cut)
      const error = await attempt(spec(fileSource(path, offset), sinkAt(target)))
      return wrong(error, path, traces(folder, 'target'))
    })
  })
}

for (const expected of streams.filter(({ kind, libvirt_header }) => kind === 'stream' && !libvirt_header)) {
  const name = nameOf(expected.file)
  t.test(`no part of ${name} over a connection becomes an image`, async (t) => {
    const folder = t.testdir()
    const bytes = unpack(name)
    const socket = join(shortFolder(t), 'in.sock')
    const target = join(folder, 'target')
    await everywhere(t, cuts(expected, bytes.length), async (cut) => {
      const error = await attempt(spec(listening(socket), sinkAt(target)), () =>
        send(socket, bytes.subarray(0, cut)),
      )
      return wrong(error, socket, traces(folder, 'target'))
    })
  })
}

for (const expected of streams.filter(({ kind }) => kind === 'multifd-main')) {
  const main = nameOf(expected.file)
  const whole = [main, ...channelsOf(expected)].map((name) => ({ name, bytes: unpack(name) }))
  for (const { name, bytes } of whole)
    t.test(`${main} with only a part of ${name} does not become an image`, async (t) => {
      const folder = t.testdir()
      const socket = join(shortFolder(t), 'in.sock')
      const target = join(folder, 'target')
      const lengths =
        name === main
          ? cuts(expected, bytes.length)
          : [0, 1, 4, 63, 64, 65, 64 + 320, 1408, ...Array.from({ length: 20 }, () => below(bytes.length))]
      await everywhere(t, lengths, async (cut) => {
        const error = await attempt(spec(listening(socket, 2), sinkAt(target)), async () => {
          const parts = whole.map((each) => (each.name === name ? bytes.subarray(0, cut) : each.bytes))
          await Promise.all(parts.map((part) => send(socket, part)))
        })
        return wrong(error, socket, traces(folder, 'target'))
      })
    })
}
