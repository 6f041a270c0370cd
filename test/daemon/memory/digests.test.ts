// SPDX-License-Identifier: Apache-2.0
// Checksums beside an image: on every way an image can take they are those of its pages, and they get their name last.

import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { crc32c } from '../../../native/page-scanner.js'
import { concat } from '../../../protocol/migration/bytes.js'
import { parseDigestHead } from '../../../protocol/migration/digests.js'
import { formatHead } from '../../../protocol/migration/section.js'
import {
  channelsOf,
  type ExpectedStream,
  nameOf,
  streamNamed,
  streams,
  unpack,
} from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { replaySaveImage } from '../../helpers/migration/replay-sets.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { headOf, partOf, tailBytes } from './synthetic.js'
import { type FileSink, fileSink, fileSource, inspect, spec, Worker } from './worker.js'

const PAGE = 4096
const formats = ['mapped-ram', 'stream', 'libvirt-raw', 'libvirt-sparse'] as const
const domain = { xml: '<domain type="kvm"><name>guest</name></domain>', running: true }
const digests = true

function replayed(path: string, format: FileSink['format']): Replay {
  const bytes = readFileSync(path)
  return format.startsWith('libvirt') ? replaySaveImage(bytes).replay : new Replay(bytes, 0)
}

/** The file of checksums against the memory as the naive reader has it. */
function check(t: Test, path: string, replay: Replay): void {
  const bytes = readFileSync(`${path}.digests`)
  const parsed = parseDigestHead(bytes, crc32c)
  t.same(
    parsed?.value.blocks,
    replay.blocks.map(({ name, usedLength }) => ({ name, length: usedLength })),
  )
  let at = parsed?.length ?? 0
  for (const { name, memory } of replay.blocks) {
    const wrong: number[] = []
    for (let page = 0; page < memory.length / PAGE; page++, at += 4) {
      const wanted = crc32c(memory.subarray(page * PAGE, (page + 1) * PAGE))
      if (bytes.readUInt32LE(at) !== wanted) wrong.push(page)
    }
    t.same(wrong, [], name)
  }
  t.equal(bytes.length, at + 4)
  t.equal(bytes.readUInt32BE(at), crc32c(bytes.subarray(parsed?.length, at)))
}

function placed(t: Test, expected: ExpectedStream) {
  const folder = t.testdir({})
  const path = join(folder, 'source')
  writeFileSync(path, unpack(expected.file))
  const ram = join(folder, 'ram')
  if (expected.ram_image !== undefined) writeFileSync(ram, unpack(expected.ram_image))
  const block = expected.ram_image_block
  return {
    folder,
    path,
    shared: block === undefined ? [] : [{ block, file: { kind: 'path', path: ram } as const }],
  }
}

for (const [when, early] of [
  ['before memory', true],
  ['before its pages', false],
] as const)
  t.test(`a stream that cannot be read on from ${when} is stored without checksums`, async (t) => {
    const [source, target] = [join(t.testdir(), 'source'), join(t.testdirName, 'target')]
    const vfio = formatHead({ kind: 'start', id: 9, name: '0000:00:02.0/vfio', instance: 0, version: 1 })
    const head = headOf([{ name: 'pc.ram', usedLength: PAGE }])
    const ram = head.indexOf(1, head.indexOf(7))
    const parts = early ? [head.subarray(0, ram), vfio, head.subarray(ram)] : [head, vfio]
    const page = { offset: 0, data: new Uint8Array(PAGE).fill(1) }
    const bytes = concat([...parts, partOf('pc.ram', [page]), tailBytes()])
    writeFileSync(source, bytes)
    const worker = new Worker(t)
    t.equal(await worker.run(spec(fileSource(source), fileSink(target, 'stream', { digests }))), undefined)
    t.match((await worker.ended()).result, { 'digests-left-out': /assigned device/ })
    t.ok(readFileSync(target).equals(bytes))
    t.notOk(existsSync(`${target}.digests`))
  })

for (const expected of streams.filter(({ kind }) => kind !== 'multifd-main')) {
  t.test(`${expected.file} is converted with checksums`, async (t) => {
    const { folder, path, shared } = placed(t, expected)
    const offset = expected.libvirt_header === undefined ? (expected.start_offset ?? 0) : 0
    const copies = (format: string) => expected.kind === 'stream' && /stream|raw/.test(format)
    for (const format of formats) {
      await t.test(format, async (t) => {
        const target = join(folder, `first.${format}`)
        const more = { digests, ...(format.startsWith('libvirt') && { domain }) }
        const worker = new Worker(t)
        t.equal(
          await worker.run(spec(fileSource(path, offset), fileSink(target, format, more), { shared })),
          undefined,
        )
        const { result } = await worker.ended()
        if ((expected.records.xbzrle ?? 0) > 0 && copies(format)) {
          t.match(result, { 'digests-left-out': /XBZRLE/ })
          t.notOk(existsSync(`${target}.digests`))
          return
        }
        t.same(result, { digests: `${target}.digests` })
        check(t, target, replayed(target, format))
        const found = await inspect(t, 'verify', target, { digests: `${target}.digests` })
        t.match(found, {
          sound: true,
          checksums: 'checked',
          states: 'alike',
          'pages-different': 0,
          blocks: [],
        })
        t.notOk(found.problem)
        t.same(
          readdirSync(folder).filter((name) => name.startsWith('.')),
          [],
          'nothing else is left',
        )
      })
    }
    const [one, ...others] = formats
      .map((format) => join(folder, `first.${format}.digests`))
      .filter((name) => existsSync(name))
      .map((name) => readFileSync(name))
    for (const other of others) t.ok(one?.equals(other), 'checksums do not depend on the format')
  })
}

async function sendTo(path: string, bytes: Buffer): Promise<void> {
  const socket = connect(path)
  await once(socket, 'connect')
  socket.end(bytes)
  socket.resume()
  if (!socket.closed) await once(socket, 'close')
}

t.test('the channels of multifd are saved with checksums', async (t) => {
  const main = 'q10-pc-q35-10.0-live-multifd2.main'
  const channels = channelsOf(streamNamed(main))
  const path = join(shortFolder(t), 'in.sock')
  const target = join(t.testdir({}), 'saved')
  const worker = new Worker(t)
  const address = { kind: 'unix', path } as const
  const source = { kind: 'stream', channels: channels.length, from: { kind: 'listen', address } } as const
  await worker.start(spec(source, fileSink(target, 'mapped-ram', { digests })))
  await Promise.all([main, ...channels].map((name) => sendTo(path, unpack(name))))
  t.same((await worker.ended()).outcome, { kind: 'success' })
  check(t, target, replayed(target, 'mapped-ram'))
})

const stopped = streamNamed('q10-pc-q35-10.0-stopped.mapped')

t.test('checksums need a file with a name', async (t) => {
  const { path } = placed(t, stopped)
  const sink = fileSink('/dev/null', 'stream', { digests })
  t.match(await new Worker(t).run(spec(fileSource(path), sink)), /refused: .*the target is none/)
})

t.test('when the checksums cannot be written the image does not get its name', async (t) => {
  const { folder, path } = placed(t, stopped)
  const target = join(folder, 'out')
  mkdirSync(`${target}.digests`)
  const error = await new Worker(t).run(spec(fileSource(path), fileSink(target, 'mapped-ram', { digests })))
  t.match(error, /out\.digests/)
  t.same(readdirSync(folder).sort(), ['out.digests', nameOf('source')])
})

t.test('a cancelled save leaves neither image nor checksums', async (t) => {
  const path = join(shortFolder(t), 'in.sock')
  const folder = t.testdir({})
  const worker = new Worker(t)
  const address = { kind: 'unix', path } as const
  const source = { kind: 'stream', channels: 0, from: { kind: 'listen', address } } as const
  await worker.start(spec(source, fileSink(join(folder, 'out'), 'mapped-ram', { digests })))
  t.equal(readdirSync(folder).length, 2)
  await worker.cancel()
  t.same((await worker.ended()).outcome, { kind: 'cancelled' })
  t.same(readdirSync(folder), [])
})
