// SPDX-License-Identifier: Apache-2.0
// Every recorded image in every format: blocks, states of devices and everything between against the manifest and the naive
// reader, on a first conversion and on a second one from what came out.

import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SharedRam, TransferSpec } from '../../../daemon/memory/messages.js'
import {
  type ExpectedPart,
  type ExpectedStream,
  fixtures,
  nameOf,
  streams,
  unpack,
} from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { replaySaveImage } from '../../helpers/migration/replay-sets.js'
import { type FileSink, fileSink, fileSource, spec, Worker } from './worker.js'

const formats = ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'] as const
const XML = '<domain type="kvm"><name>guest</name></domain>'

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Places a recorded file, and the memory it leaves out, in a folder. */
function placed(t: Test, expected: ExpectedStream) {
  const folder = t.testdir()
  const path = join(folder, nameOf(expected.file))
  writeFileSync(path, unpack(expected.file))
  const shared: SharedRam[] = []
  if (expected.ram_image !== undefined && expected.ram_image_block !== undefined) {
    const ram = join(folder, nameOf(expected.ram_image))
    writeFileSync(ram, unpack(expected.ram_image))
    shared.push({ block: expected.ram_image_block, file: { kind: 'path', path: ram } })
  }
  return { folder, path, shared }
}

function replayed(path: string, format: FileSink['format'], offset = 0): Replay {
  const bytes = readFileSync(path)
  return format.startsWith('libvirt') ? replaySaveImage(bytes).replay : new Replay(bytes, offset)
}

/** What the manifest says of the memory that a stream leaves out. */
function sharedRam({ ram_image }: ExpectedStream): ExpectedPart | undefined {
  return fixtures.find((one): one is ExpectedPart => one.file === ram_image)
}

function check(t: Test, expected: ExpectedStream, source: Replay, result: Replay): void {
  const { configuration, blocks = [] } = expected
  t.equal(result.configuration.machine, configuration.machine)
  t.same(
    result.blocks.map(({ name, usedLength, memory }) => ({ name, usedLength, sha256: sha256(memory) })),
    blocks.map(({ name, used_length, sha256: hash }) => {
      const shared = name === expected.ram_image_block ? sharedRam(expected) : undefined
      return { name, usedLength: used_length, sha256: shared?.sha256 ?? hash }
    }),
  )
  for (const { name, mapped } of result.blocks) {
    const shared = name === expected.ram_image_block ? sharedRam(expected) : undefined
    const wanted = shared?.nonzero_pages ?? blocks.find((block) => block.name === name)?.nonzero_pages
    if (mapped !== undefined)
      t.equal(mapped.bits, wanted, `set bits of ${name} are the pages that are not zero`)
  }
  t.ok(result.tail.equals(source.tail.subarray(0, result.tail.length)), 'states of devices')
  t.same(result.deviceSections, expected.device_sections)
  t.same(
    result.early.map(({ idstr }) => idstr),
    source.early.map(({ idstr }) => idstr),
  )
}

async function convert(t: Test, spec: TransferSpec): Promise<void> {
  t.equal(await new Worker(t).run(spec), undefined)
}

for (const expected of streams.filter(({ kind }) => kind !== 'multifd-main')) {
  t.test(`${expected.file} becomes`, async (t) => {
    const { folder, path, shared } = placed(t, expected)
    const source = new Replay(readFileSync(path), expected.start_offset ?? 0)
    const offset = expected.libvirt_header === undefined ? (expected.start_offset ?? 0) : 0
    const domain = { xml: XML, running: true }
    for (const format of formats) {
      await t.test(format, async (t) => {
        const first = join(folder, `first.${format}`)
        const more = (format: FileSink['format']) =>
          format.startsWith('libvirt') ? { domain } : { offset: 12345 }
        await convert(t, spec(fileSource(path, offset), fileSink(first, format, more(format)), { shared }))
        const base = more(format).offset ?? 0
        check(t, expected, source, replayed(first, format, base))
        for (const other of formats) {
          const second = join(folder, `${format}.${other}`)
          await convert(t, spec(fileSource(first, base), fileSink(second, other, more(other))))
          check(t, expected, source, replayed(second, other, more(other).offset ?? 0))
        }
      })
    }
  })
}
