// SPDX-License-Identifier: Apache-2.0
// Damaged images as files and over connections: each transfer ends, within bounds, with one clear error and no target, or with
// an image that can be read. FUZZ_SECONDS says how long (default 5, 60 where CI is set), SEED repeats a run.

import { rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { newSeed, random } from '../../helpers/graph.js'
import { channelsOf, type ExpectedStream, nameOf, streams, unpack } from '../../helpers/migration/fixtures.js'
import { mutate } from '../../helpers/mutate.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt, listening, send, traces } from './attempt.js'
import { type FileSink, fileSink, fileSource, spec } from './worker.js'

const MiB = 2 ** 20
const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 5 : 60))
const domain = { xml: '<domain/>', running: true }
const formats = ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'] as const
/** What only a mistake of ours says. */
const MISTAKE =
  /is not a function|cannot read prop|undefined|null|typed array|array buffer|out of (bounds|range)|offset is|call stack|heap|NaN|\[object|^block \d|more was taken|stopped at|a layout has|has not begun/i

type Draw = ReturnType<typeof random>

interface Recording {
  readonly expected: ExpectedStream
  /** The main connection, and the channels of multifd. */
  readonly parts: readonly Buffer[]
}

/** One without its memory becomes no image but a stream. */
const whole = streams.filter(({ ram_image }) => ram_image === undefined)
const recordings: readonly Recording[] = whole.map((expected) => {
  const names = [nameOf(expected.file), ...(expected.kind === 'multifd-main' ? channelsOf(expected) : [])]
  return { expected, parts: names.map(unpack) }
})

/** Damage where it hurts: in the head, around the end of RAM, at its very end, or anywhere. */
function hurt(
  part: Buffer,
  { tail_offset: tail, start_offset: start = 0 }: ExpectedStream,
  draw: Draw,
): Buffer {
  const bytes = Buffer.from(part)
  const length = bytes.length
  const [from, to] = ([
    [start, start + 512],
    [0, 4096],
    [tail - 256, tail + 512],
    [length - 65536, length],
    [0, length],
  ][draw(5)] ?? [0, length]) as [number, number]
  const region = bytes.subarray(Math.max(0, Math.min(from, length - 16)), Math.min(to, length))
  mutate(region, region.length & ~7, draw)
  return draw(8) === 0 ? bytes.subarray(0, draw(length)) : bytes
}

function sinkAt(path: string, draw: Draw): FileSink {
  const format = formats[draw(formats.length)] ?? 'stream'
  const offset = format.startsWith('libvirt') ? 0 : draw(2) * 12345
  return fileSink(path, format, format.startsWith('libvirt') ? { domain } : { offset })
}

/** @returns what is wrong with an image that was made */
async function readAgain(source: ReturnType<typeof fileSource>, other: string): Promise<string | undefined> {
  // Not to nowhere: XBZRLE cannot be taken there.
  for (const format of ['mapped-ram', 'stream'] as const) {
    const error = await attempt(spec(source, fileSink(other, format)))
    rmSync(other, { force: true })
    // A section of devices among those of memory has no place but in a stream.
    if (error === undefined || !error.includes('such streams can only be stored as they are')) return error
  }
  return 'it cannot be stored as it is'
}

t.test('a damaged image becomes none, or one that can be read', async (t) => {
  t.setTimeout((seconds + 120) * 1000)
  const folder = t.testdir()
  const socket = join(shortFolder(t), 'in.sock')
  const [source, target, other] = ['source', 'target', 'other'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const draw = random(seed)
  const before = process.memoryUsage().rss
  const end = performance.now() + seconds * 1000
  const found: string[] = []
  const counts = { failed: 0, made: 0 }
  while (performance.now() < end && found.length < 5) {
    const recording = recordings[draw(recordings.length)]
    if (recording === undefined) continue
    const { expected } = recording
    const which = draw(recording.parts.length)
    const parts = recording.parts.map((part, index) => (index === which ? hurt(part, expected, draw) : part))
    const sink = sinkAt(target, draw)
    const overSockets = parts.length > 1 || (expected.kind === 'stream' && draw(2) === 0)
    let error: string | undefined
    if (overSockets)
      error = await attempt(spec(listening(socket, parts.length - 1), sink), async () => {
        await Promise.all(parts.map((part) => send(socket, part)))
      })
    else {
      writeFileSync(source, parts[0] ?? '')
      const offset = expected.libvirt_header === undefined ? (expected.start_offset ?? 0) : 0
      error = await attempt(spec(fileSource(source, offset), sink))
    }
    const title = `${expected.file} to ${sink.format}${overSockets ? ' over sockets' : ''}`
    const keep = () => writeFileSync(join(folder, `failed.${found.length}`), parts[which] ?? '')
    if (error === undefined) {
      counts.made += 1
      const again = await readAgain(fileSource(target, sink.offset), other)
      if (again !== undefined) {
        found.push(`${title} was made and cannot be read: ${again}`)
        keep()
      }
      rmSync(target)
      continue
    }
    counts.failed += 1
    const left = traces(folder, 'target')
    if (left.some((name) => name !== 'target' || sink.offset === 0))
      found.push(`${title} left ${left}: ${error}`)
    else if (left.length > 0 && statSync(target).size > sink.offset) found.push(`${title} left a part`)
    else if (MISTAKE.test(error)) found.push(`${title}: ${error}`)
    if (MISTAKE.test(error)) keep()
    rmSync(target, { force: true })
  }
  t.same(found, [])
  t.comment(`${counts.failed} failed, ${counts.made} were made`)
  t.ok(counts.failed > 0 && counts.made > 0, 'some of each')
  const grown = process.memoryUsage().rss - before
  t.ok(grown < 768 * MiB, `${Math.round(grown / MiB)} MiB more than before`)
})
