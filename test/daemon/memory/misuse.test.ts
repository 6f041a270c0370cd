// SPDX-License-Identifier: Apache-2.0
// What users get wrong is refused with one error that names it, and changes nothing; FIFOs and descriptors as sources.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, linkSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SinkSpec, SourceSpec, TransferSpec } from '../../../daemon/memory/messages.js'
import { unpack } from '../../helpers/migration/fixtures.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt } from './attempt.js'
import { fileSink, fileSource, spec } from './worker.js'

const STREAM = 'q10-pc-q35-10.0-live.stream'
const whole = unpack(STREAM)
const NO_FD = 9999

interface Misuse {
  readonly name: string
  readonly error: RegExp
  /** @param folder  has `image`, a sound one, which is `same` too, `text`, `nothing`, `folder` and `fifo` */
  spec(folder: string): TransferSpec
}

function from(folder: string, name: string): SourceSpec {
  return fileSource(join(folder, name))
}
function to(folder: string, name: string): SinkSpec {
  return fileSink(join(folder, name), 'mapped-ram')
}
function stream(kind: 'listen' | 'connect', path: string, channels = 0): SourceSpec {
  return { kind: 'stream', channels, from: { kind, address: { kind: 'unix', path } } }
}

const cases: readonly Misuse[] = [
  {
    name: 'a target that is a folder',
    error: /^refused: Could not create '.*\/folder': Is a directory$/,
    spec: (folder) => spec(from(folder, 'image'), to(folder, 'folder')),
  },
  {
    name: 'a target in no folder',
    error: /^refused: Could not create '.*\/none\/target': No such file or directory$/,
    spec: (folder) => spec(from(folder, 'image'), to(folder, 'none/target')),
  },
  {
    name: 'a target behind a file',
    error: /^refused: Could not open '.*\/text\/target': Not a directory$/,
    spec: (folder) => spec(from(folder, 'image'), to(folder, 'text/target')),
  },
  {
    name: 'a target that is a FIFO',
    error: /^refused: .*\/fifo/,
    spec: (folder) => spec(from(folder, 'image'), to(folder, 'fifo')),
  },
  {
    name: "a libvirt image without its domain's XML",
    error: /^refused: a libvirt-raw image needs the XML of its domain: parameter 'xml'$/,
    spec: (folder) => spec(from(folder, 'image'), fileSink(join(folder, 'target'), 'libvirt-raw')),
  },
  {
    name: 'a source that is not there',
    error: /^refused: Could not open '.*\/none': No such file or directory$/,
    spec: (folder) => spec(from(folder, 'none'), to(folder, 'target')),
  },
  {
    name: 'a source that is a folder',
    error: /^refused: .*\/folder is neither a file nor a block device$/,
    spec: (folder) => spec(from(folder, 'folder'), to(folder, 'target')),
  },
  {
    name: 'a source without bytes',
    error: /^refused: .*\/nothing ends at offset 0, within its magic number$/,
    spec: (folder) => spec(from(folder, 'nothing'), to(folder, 'target')),
  },
  {
    name: 'a source that is a text',
    error: /^refused: .*\/text: magic number of a migration stream/,
    spec: (folder) => spec(from(folder, 'text'), to(folder, 'target')),
  },
  {
    name: 'a source that begins behind its end',
    error: /^refused: .*\/image ends at offset \d+, within its magic number$/,
    spec: (folder) => spec(fileSource(join(folder, 'image'), 2 ** 40), to(folder, 'target')),
  },
  {
    name: 'a descriptor that is not open',
    error: new RegExp(`^refused: Could not open 'fd ${NO_FD}': Bad file descriptor$`),
    spec: (folder) =>
      spec({ kind: 'stream', channels: 0, from: { kind: 'fd', fd: NO_FD } }, to(folder, 'target')),
  },
  {
    name: 'multifd over a FIFO',
    error: /^refused: Migration requires multi-channel URIs \(e.g. tcp\)$/,
    spec: (folder) =>
      spec(
        { kind: 'stream', channels: 2, from: { kind: 'path', path: join(folder, 'fifo') } },
        to(folder, 'target'),
      ),
  },
  {
    name: 'a socket where there is a file',
    error: /^refused: Failed to listen on .*\/text: Address already in use$/,
    spec: (folder) => spec(stream('listen', join(folder, 'text')), to(folder, 'target')),
  },
  {
    name: 'a socket in no folder',
    error: /^refused: Failed to listen on .*\/none\/in.sock: No such file or directory$/,
    spec: (folder) => spec(stream('listen', join(folder, 'none/in.sock')), to(folder, 'target')),
  },
  {
    name: 'a source that nobody serves',
    error: /^Failed to connect to '.*\/in.sock': No such file or directory$/,
    spec: (folder) => spec(stream('connect', join(folder, 'in.sock')), to(folder, 'target')),
  },
  {
    name: 'shared memory of a block that is not there',
    error: /^the stream has no block of RAM called "mem7"$/,
    spec: (folder) =>
      spec(from(folder, 'image'), to(folder, 'target'), {
        shared: [{ block: 'mem7', file: { kind: 'path', path: join(folder, 'text') } }],
      }),
  },
  {
    name: 'a target in place that is the source by another name',
    error: /^refused: source and target '.*\/same' are the same file$/,
    spec: (folder) =>
      spec(from(folder, 'image'), fileSink(join(folder, 'same'), 'mapped-ram', { offset: 4096 })),
  },
  {
    name: 'names that would meet',
    error: /^two blocks of RAM would have the same name$/,
    spec: (folder) =>
      spec(from(folder, 'image'), to(folder, 'target'), {
        renames: [{ from: 'pc.bios', to: 'pc.ram' }],
      }),
  },
]

/** Short, as there are sockets in it. */
function lab(t: Test): string {
  const folder = shortFolder(t, {
    text: 'This is no image, but it is longer than eight bytes.\n',
    nothing: '',
  })
  mkdirSync(join(folder, 'folder'))
  writeFileSync(join(folder, 'image'), whole)
  linkSync(join(folder, 'image'), join(folder, 'same'))
  spawnSync('mkfifo', [join(folder, 'fifo')])
  return folder
}

for (const { name, error, spec } of cases)
  t.test(`${name} is refused, and nothing is changed`, async (t) => {
    const folder = lab(t)
    const before = readdirSync(folder)
    const said = await attempt(spec(folder))
    t.match(said, error)
    t.equal(said?.split('\n').length, 1)
    t.same(readdirSync(folder), before)
    t.match(readFileSync(join(folder, 'text'), 'utf8'), /^This is no image/)
    t.ok(readFileSync(join(folder, 'image')).equals(whole))
  })

for (const length of [whole.length, 100_000, 0])
  t.test(`a FIFO gives ${length} of ${whole.length} bytes`, async (t) => {
    const folder = lab(t)
    const [fifo, target] = [join(folder, 'fifo'), join(folder, 'target')]
    const source = { kind: 'stream', channels: 0, from: { kind: 'path', path: fifo } } as const
    const error = await attempt(spec(source, fileSink(target, 'stream')), async () => {
      const writer = spawn('sh', ['-c', `head -c ${length} "$0" >"$1"`, join(folder, 'image'), fifo])
      await once(writer, 'close')
    })
    if (length < whole.length) t.match(error, new RegExp(`/fifo ends at offset ${length}, within `))
    else t.equal(error, undefined)
    t.equal(readdirSync(folder).includes('target'), error === undefined)
    if (error === undefined) t.ok(readFileSync(target).equals(whole))
  })

t.test('a descriptor of a file is read from where it stands', async (t) => {
  const folder = lab(t)
  const target = join(folder, 'target')
  const fd = openSync(join(folder, 'image'), 'r')
  const source = { kind: 'stream', channels: 0, from: { kind: 'fd', fd } } as const
  t.equal(await attempt(spec(source, fileSink(target, 'stream'))), undefined)
  closeSync(fd)
  t.ok(readFileSync(target).equals(whole))
})

t.test('a stream that opens a return path is refused from a FIFO, which has none', async (t) => {
  const folder = lab(t)
  const [fifo, target] = [join(folder, 'fifo'), join(folder, 'target')]
  writeFileSync(join(folder, 'image'), unpack('q10-pc-q35-10.0-stopped-bitmaps-returnpath-uuid.stream'))
  const source = { kind: 'stream', channels: 0, from: { kind: 'path', path: fifo } } as const
  const error = await attempt(spec(source, fileSink(target, 'stream')), async () => {
    const writer = spawn('sh', ['-c', 'cat "$0" >"$1"', join(folder, 'image'), fifo], { stdio: 'ignore' })
    await once(writer, 'close')
  })
  t.match(error, /return.path/)
  t.notOk(readdirSync(folder).includes('target'))
})

for (const main of ['q10-pc-q35-10.0-live-multifd2.main', 'q72-pc-i440fx-7.2-live-multifd2.main'])
  for (const format of ['mapped-ram', 'stream'] as const)
    t.test(`${main} without its channels becomes no image (${format})`, async (t) => {
      const folder = lab(t)
      writeFileSync(join(folder, 'main'), unpack(main))
      const error = await attempt(spec(from(folder, 'main'), fileSink(join(folder, 'target'), format)))
      t.match(error, /\/main: the pages come over connections of their own: capability "multifd"/)
      t.notOk(readdirSync(folder).includes('target'))
    })
