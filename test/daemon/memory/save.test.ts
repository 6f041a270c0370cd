// SPDX-License-Identifier: Apache-2.0
// Recorded migrations sent over sockets, FIFOs and descriptors into every format; byte for byte where the format is that of
// the stream.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { TransferSpec } from '../../../daemon/memory/messages.js'
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
import { fileSink, spec, Worker } from './worker.js'

const XML = '<domain type="kvm"><name>guest</name></domain>'
const domain = { xml: XML, running: true }

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function listening(path: string, channels = 0) {
  return { kind: 'stream', channels, from: { kind: 'listen', address: { kind: 'unix', path } } } as const
}

/** Sends bytes over a connection of its own, in pieces. */
async function sendTo(path: string, bytes: Buffer, piece = 65536): Promise<void> {
  const socket = connect(path)
  await once(socket, 'connect')
  for (let at = 0; at < bytes.length; at += piece)
    if (!socket.write(bytes.subarray(at, at + piece))) await once(socket, 'drain')
  await closed(socket)
}

async function closed(socket: Socket): Promise<void> {
  socket.end()
  socket.resume()
  if (!socket.closed) await once(socket, 'close')
}

function check(t: Test, file: string, result: Replay): void {
  const expected = streamNamed(file)
  const blocks = expected.after_replay_of_all_files?.blocks ?? expected.blocks ?? []
  t.same(
    result.blocks.map(({ name, memory }) => ({ name, sha256: sha256(memory) })),
    blocks.map(({ name, sha256: hash }) => ({ name, sha256: hash })),
  )
  t.same(result.deviceSections, expected.device_sections)
}

const overOne = ({ kind, libvirt_header }: ExpectedStream) =>
  kind === 'stream' && libvirt_header === undefined

for (const { file } of streams.filter(overOne)) {
  const name = nameOf(file)
  t.test(`${name} over one connection`, async (t) => {
    const bytes = unpack(name)
    const folder = t.testdir()
    const path = join(shortFolder(t), 'in.sock')
    for (const [format, more] of [
      ['stream', {}],
      ['mapped-ram', { offset: 777 }],
      ['libvirt-raw', { domain }],
      ['libvirt-sparse', { domain }],
    ] as const) {
      // What has none of the pages cannot be laid out by pages.
      if (streamNamed(name).ram_image !== undefined && format !== 'stream') continue
      const target = join(folder, format)
      const worker = new Worker(t)
      await worker.start(spec(listening(path), fileSink(target, format, more)))
      await sendTo(path, bytes, 10_000)
      t.same((await worker.ended()).outcome, { kind: 'success' }, format)
      const written = readFileSync(target)
      if (format === 'stream') t.ok(written.equals(bytes), 'byte for byte')
      else if (format === 'libvirt-raw') t.ok(written.subarray(-bytes.length).equals(bytes), 'byte for byte')
      if (streamNamed(name).ram_image !== undefined) continue
      const replay = format.startsWith('libvirt')
        ? replaySaveImage(written).replay
        : new Replay(written, format === 'mapped-ram' ? 777 : 0)
      check(t, name, replay)
    }
  })
}

for (const { file } of streams.filter(({ kind }) => kind === 'multifd-main')) {
  const main = nameOf(file)
  t.test(`${main} and its channels`, async (t) => {
    const channels = channelsOf(streamNamed(main))
    const folder = t.testdir()
    const path = join(shortFolder(t), 'in.sock')
    for (const [format, more] of [
      ['stream', {}],
      ['mapped-ram', { offset: 777 }],
    ] as const) {
      const target = join(folder, format)
      const worker = new Worker(t)
      await worker.start(spec(listening(path, channels.length), fileSink(target, format, more)))
      // In another order than they are numbered.
      await Promise.all([...channels, main].reverse().map((name) => sendTo(path, unpack(name), 100_000)))
      t.same((await worker.ended()).outcome, { kind: 'success' }, format)
      check(t, main, new Replay(readFileSync(target), format === 'mapped-ram' ? 777 : 0))
    }
  })
}

t.test('memory that a stream leaves out has to come from a file, and is put with the rest', async (t) => {
  const name = 'q10-pc-q35-10.0-stopped-ignore-shared.stream'
  const expected = streamNamed(name)
  const folder = t.testdir()
  const path = join(shortFolder(t), 'in.sock')
  const ram = join(folder, 'ram')
  writeFileSync(ram, unpack(nameOf(expected.ram_image ?? '')))
  const place = { kind: 'path', path: ram } as const
  const save = async (target: string, shared: TransferSpec['shared']) => {
    const worker = new Worker(t)
    const sink = fileSink(join(folder, target), 'mapped-ram')
    await worker.start(spec(listening(path), sink, { shared, renames: [{ from: 'mem0', to: 'pc.ram' }] }))
    await sendTo(path, unpack(name))
    return (await worker.ended()).outcome
  }
  t.match(await save('without', []), {
    kind: 'failed',
    error: `${path} leaves out the memory of block "mem0" (x-ignore-shared): it has to come from a file`,
  })
  writeFileSync(join(folder, 'bios'), Buffer.alloc(262144))
  t.match(
    await save('with too many', [
      { block: 'mem0', file: place },
      { block: 'pc.bios', file: { kind: 'path', path: join(folder, 'bios') } },
    ]),
    { kind: 'failed', error: `${path} has the memory of block "pc.bios": it is not to come from a file` },
  )
  t.same(await save('whole', [{ block: 'mem0', file: place }]), { kind: 'success' })
  t.same(readdirSync(folder).sort(), ['bios', 'ram', 'whole'])
  const { blocks } = new Replay(readFileSync(join(folder, 'whole')))
  const wanted = expected.blocks ?? []
  t.same(
    blocks.map(({ name }) => name),
    wanted.map(({ name }) => (name === 'mem0' ? 'pc.ram' : name)),
  )
  t.ok(blocks.find(({ name }) => name === 'pc.ram')?.memory.equals(readFileSync(ram)))
})

for (const [main, channels] of [
  ['q10-pc-q35-10.0-live.stream', 0],
  ['q72-pc-i440fx-7.2-live-multifd2.main', 2],
] as const)
  t.test(`${main} is read and thrown away`, async (t) => {
    const path = join(shortFolder(t), 'in.sock')
    const worker = new Worker(t)
    await worker.start(spec(listening(path, channels), { kind: 'null' }))
    const all = [main, ...(channels > 0 ? channelsOf(streamNamed(main)) : [])]
    await Promise.all(all.map((name) => sendTo(path, unpack(name))))
    t.same((await worker.ended()).outcome, { kind: 'success' })
    const { head, transferred, normal, duplicate } = worker.stats ?? {}
    t.equal(
      transferred,
      all.reduce((sum, name) => sum + unpack(name).length, 0),
    )
    const pages = ((normal ?? 0) + (duplicate ?? 0)) * (head?.pageSize ?? 0)
    t.ok(pages >= (head?.total ?? Number.POSITIVE_INFINITY), 'every page was seen')
  })
