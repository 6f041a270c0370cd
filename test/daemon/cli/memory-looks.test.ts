// SPDX-License-Identifier: Apache-2.0
// memory info, verify, diff and map as their users have them: texts, JSON, pictures and exit statuses, on recorded images.

import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { inflateSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { draw } from '../../../daemon/cli/memory/picture.js'
import { formatPng } from '../../../daemon/cli/png.js'
import { appears, startDaemon } from '../../helpers/daemon-process.js'
import { streamNamed, unpack } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { run as runProgram } from './run.js'

const PAGE = 4096
const MAPPED = 'q10-pc-q35-10.0-stopped.mapped'
const STREAM = 'q10-pc-q35-10.0-live.stream'
const OFFSET = 'q10-pc-q35-10.0-live-multifd2-direct-offset12345.mapped'
const SAVE = 'libvirt-11.3.0-sparse.save'

/** Without progress, which comes on a busy machine only. */
function run(args: readonly string[]) {
  return runProgram(args[0] === 'memory' ? [...args, '--no-progress'] : args)
}

/** Recorded files in the folder of the test, by their names. */
function placed(t: Test, ...names: readonly string[]): string[] {
  const folder = t.testdir({})
  return names.map((name) => {
    const path = join(folder, name)
    writeFileSync(path, unpack(name))
    return path
  })
}

function flip(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes[at] = (bytes[at] ?? 0) ^ 1
  writeFileSync(path, bytes)
}

/** Pixels of a picture as formatPng() writes it, by their colour. */
function pixelsOf(png: Buffer): {
  width: number
  height: number
  count: (colour: readonly number[]) => number
} {
  const chunks = new Map<string, Buffer>()
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at)
    chunks.set(png.toString('latin1', at + 4, at + 8), png.subarray(at + 8, at + 8 + length))
    at += 12 + length
  }
  const head = chunks.get('IHDR') ?? Buffer.alloc(8)
  const [width, height] = [head.readUInt32BE(0), head.readUInt32BE(4)]
  const rows = inflateSync(chunks.get('IDAT') ?? Buffer.alloc(0))
  const palette = chunks.get('PLTE') ?? Buffer.alloc(0)
  const count = (colour: readonly number[]) => {
    let found = 0
    for (let y = 0; y < height; y++)
      for (const number of rows.subarray(y * (width + 1) + 1, (y + 1) * (width + 1)))
        if (palette.subarray(3 * number, 3 * number + 3).equals(Buffer.from(colour))) found += 1
    return found
  }
  return { width, height, count }
}

const ZERO = [16, 16, 24]
const DATA = [90, 170, 255]
const CHANGED = [255, 150, 40]

t.test('info is a page of text', async (t) => {
  const [path = ''] = placed(t, MAPPED)
  const { status, stdout, stderr } = await run(['memory', 'info', path])
  t.same({ status, stderr }, { status: 0, stderr: '' })
  for (const line of [
    `file: ${path}`,
    'format: mapped-ram',
    'image: at offset 0',
    'complete: yes',
    'machine type: pc-q35-10.0',
    'page size: 4096',
    'capabilities: mapped-ram',
    'pc.ram                 16777216        312        3784   1048576',
    'pc.rom                   131072          0          32  20971520',
    'states of devices: 75.6 KiB (77388 bytes) at offset 23072822',
    'commands before them: SWITCHOVER_START',
    'cpu                            0       12  23072907    1904',
  ])
    t.ok(stdout.includes(`${line}\n`), line)
  t.match(stdout, /QEMU, by hints: 10\.0 or later \(machine type pc-q35-10\.0\)/)
})

const infos = [
  { file: STREAM, args: [], found: { format: 'stream', complete: true } },
  {
    file: OFFSET,
    args: ['--offset', '12345'],
    found: { format: 'mapped-ram', offset: 12345, complete: true },
  },
  { file: OFFSET, args: [], found: { complete: false, problem: /magic number .* found 0x50/ } },
  {
    file: SAVE,
    args: [],
    found: {
      format: 'libvirt-sparse',
      'stream-offset': 67187,
      libvirt: { name: 'tiny', 'was-running': true },
    },
  },
] as const
for (const { file, args, found } of infos) {
  t.test(`info --json of ${[file, ...args].join(' ')}`, async (t) => {
    const [path = ''] = placed(t, file)
    const { status, stdout } = await run(['memory', 'info', '--json', ...args, path])
    t.equal(status, 'format' in found ? 0 : 1)
    t.match(JSON.parse(stdout), { file: path, ...found })
  })
}

t.test('info says what a file that is cut off lacks', async (t) => {
  const [path = ''] = placed(t, MAPPED)
  truncateSync(path, 5_000_000)
  const { status, stdout } = await run(['memory', 'info', path])
  t.equal(status, 0)
  t.match(stdout, /\ncomplete: no: .*"pc\.ram"/)
  t.match(stdout, /\nmissing: at least 12\.2 MiB \(12825792 bytes\) at the end\n/)
})

t.test('verify tells good, unchecked and damaged apart', async (t) => {
  const [source = ''] = placed(t, MAPPED)
  const path = `${source}.saved`
  t.match(await run(['memory', 'convert', '-q', '--digests', source, path]), { status: 0, stderr: '' })
  t.match(await run(['memory', 'verify', path]), {
    status: 0,
    stdout:
      /sound in its structure \(mapped-ram\)\nall 4226 pages and the states of devices have their checksums\n/,
  })
  t.match(await run(['memory', 'verify', source]), {
    status: 0,
    stdout: /\nno checksums: there is no '.*mapped\.digests'; what is in the pages was not checked\n/,
  })
  t.match(await run(['memory', 'verify', source, '--digests', `${path}.digests`]), { status: 0 })
  t.match(await run(['memory', 'verify', source, '--digests', `${path}.none`]), { status: 1 })
  const { pages_offset: pages = 0 } = streamNamed(MAPPED).blocks?.[0] ?? {}
  for (const page of [0x200, 0x201, 0x210]) flip(path, pages + page * PAGE + 100)
  t.match(await run(['memory', 'verify', path]), {
    status: 2,
    stdout:
      /\n3 of 4226 pages differ from their checksums in '.*'\nblock pc\.ram: 3 pages, at 2097152\+8192, 2162688\+4096\n$/,
    stderr: '',
  })
  t.match(JSON.parse((await run(['memory', 'verify', '--json', path])).stdout), {
    ...{ good: false, sound: true, 'pages-different': 3 },
    blocks: [{ name: 'pc.ram' }],
  })
  truncateSync(path, 20_000_000)
  t.match(await run(['memory', 'verify', path]), { status: 2, stdout: /is not sound: .*pc\.bios/ })
  t.match(await run(['memory', 'verify', `${path}.none`]), {
    status: 1,
    stderr: /Could not open '.*': No such file/,
  })
})

t.test('verify tells the checksums of an image that was there before', async (t) => {
  const [one = '', other = ''] = placed(t, MAPPED, STREAM)
  const path = `${one}.saved`
  t.match(await run(['memory', 'convert', '-q', '--digests', one, path]), { status: 0 })
  // By another program: a conversion to that name takes the checksums away.
  t.match(await run(['memory', 'convert', '-q', other, `${path}2`]), { status: 0 })
  writeFileSync(path, readFileSync(`${path}2`))
  const { status, stdout } = await run(['memory', 'verify', path])
  t.equal(status, 2)
  t.match(
    stdout,
    /173 of 4226 pages differ.*\n(.*\n)*.*states of devices differ too: the checksums may be of another image\n$/,
  )
})

t.test('an image that is replaced loses its checksums', async (t) => {
  const [one = '', other = ''] = placed(t, MAPPED, STREAM)
  const path = `${one}.saved`
  t.match(await run(['memory', 'convert', '-q', '--digests', one, path]), { status: 0 })
  t.ok(existsSync(`${path}.digests`))
  t.match(await run(['memory', 'convert', '-q', other, path]), { status: 0 })
  t.notOk(existsSync(`${path}.digests`))
  t.match(await run(['memory', 'verify', path]), { stdout: /no checksums/ })
})

t.test('a picture does not replace the image it shows', async (t) => {
  const [one = ''] = placed(t, MAPPED)
  const before = readFileSync(one)
  const { status, stderr } = await run(['memory', 'map', one, '--png', one])
  t.equal(status, 2)
  t.match(stderr, /^blockferry: the picture would replace '.*', which it is to show\n$/)
  t.ok(readFileSync(one).equals(before))
})

t.test('a file that is no image of memory is said to be none', async (t) => {
  const path = join(t.testdir({ text: 'a text that is long enough to be looked at' }), 'text')
  t.match(await run(['memory', 'info', path]), {
    status: 1,
    stderr: /^blockferry: '.*text' is no image of memory: .*\n$/,
  })
})

t.test('--json says how it ended', async (t) => {
  const [one = ''] = placed(t, MAPPED)
  const good = await run(['memory', 'convert', '--json', one, `${one}.copy`])
  t.match(JSON.parse(good.stdout), { result: 'completed', 'duration-ms': Number, receipt: Object })
  const bad = await run(['memory', 'convert', '--json', one, `${one}/copy`])
  t.equal(bad.status, 1)
  t.match(JSON.parse(bad.stdout), { result: 'failed', error: /Not a directory/ })
})

t.test('checksums that cannot be made are no reason to have no image', async (t) => {
  const [source = ''] = placed(t, 'q10-pc-q35-10.0-live-xbzrle.stream')
  const args = ['memory', 'convert', '--to', 'stream', '--digests', source, `${source}.copy`]
  t.match(await run(args), { status: 0, stderr: /^blockferry: no checksums were written: .*XBZRLE/ })
})

t.test('diff ends as diff does: 0 alike, 1 different, 2 trouble', async (t) => {
  const [one = '', stream = '', offset = ''] = placed(t, MAPPED, STREAM, OFFSET)
  const raw = `${one}.stream`
  t.match(await run(['memory', 'convert', '-q', '--to', 'stream', one, raw]), { status: 0 })
  t.match(await run(['memory', 'diff', one, raw]), {
    ...{ status: 0, stderr: '' },
    stdout:
      'memory is alike in all 6 blocks\ncompared by the CRC-32C of each page; the states of devices are alike\n',
  })
  t.match(await run(['memory', 'diff', one, offset, '--other-offset', '12345']), {
    ...{ status: 1, stderr: '' },
    stdout: /^block .*\npc\.ram +73 +4096 +0\ncompared byte for byte; the states of devices are different\n$/,
  })
  t.same(await run(['memory', 'diff', '-q', one, stream]), { status: 1, stdout: '', stderr: '' })
  t.match(await run(['memory', 'diff', one, offset]), { status: 2, stderr: /magic number/ })
  t.match(await run(['memory', 'diff', one, `${one}.none`]), { status: 2, stderr: /No such file/ })
  t.match(await run(['memory', 'diff', one]), { status: 2, stderr: /missing required argument/ })
})

t.test('map tells pages with data and zeroes, and those that changed', async (t) => {
  const [one = '', other = ''] = placed(t, MAPPED, STREAM)
  const memory = new Replay(readFileSync(one), 0).blocks.map(({ memory }) => memory)
  const { stdout } = await run(['memory', 'map', '--json', one, '--against', other])
  const { blocks, ...head } = JSON.parse(stdout)
  t.same(head, { 'page-size': PAGE, 'pages-per-cell': 1 })
  for (const [index, { name, length, ranges }] of blocks.entries()) {
    let at = 0
    for (const { offset, length, set } of ranges) {
      const bytes = memory[index]?.subarray(offset, offset + length) ?? Buffer.alloc(0)
      if (offset !== at || bytes.every((byte) => byte === 0) !== (set === 'none'))
        t.fail(`${name} at ${offset}`)
      at += length
    }
    t.equal(at, length)
  }
  const [ram] = blocks
  const changed = ram.ranges.filter((range: { changed: string }) => range.changed === 'all')
  t.equal(
    changed.reduce((sum: number, { length }: { length: number }) => sum + length, 0),
    173 * PAGE,
  )
  t.equal(ram['changed-pages'], 173)
  const text = (await run(['memory', 'map', one])).stdout.split('\n')
  t.match(text[1], /^pc\.ram +0 +4096 +data$/)
  t.match(text[2], /^pc\.ram +4096 +20480 +zero$/)
})

t.test('a picture has as many squares of a colour as there are such pages', async (t) => {
  const [one = '', other = ''] = placed(t, MAPPED, STREAM)
  const png = `${one}.png`
  t.match(await run(['memory', 'map', one, '--png', png]), { status: 0, stdout: /^drew '.*png': 4096 bytes/ })
  const square = 8 * 8
  const plain = pixelsOf(readFileSync(png))
  const set = 312 + 3 + 47 + 1 + 1
  t.equal(plain.width, 128 * 8)
  t.equal(plain.count(DATA), set * square)
  t.equal(plain.count(ZERO), (4226 - set) * square)
  t.equal(plain.count(CHANGED), 0)
  t.match(await run(['memory', 'map', one, '--png', png, '--against', other, '-q']), {
    status: 0,
    stdout: '',
  })
  t.equal(pixelsOf(readFileSync(png)).count(CHANGED), 173 * square)
  const nowhere = join(one, 'file.png')
  t.match(await run(['memory', 'map', one, '--png', nowhere]), {
    status: 1,
    stderr: /cannot write '.*file\.png'/,
  })
})

t.test('pictures of large guests stay small, and no cell is lost in them', async (t) => {
  const set = new Uint8Array(65536).map((_, index) => [0, 1, 128, 255][index % 4] ?? 0)
  const blocks = Array.from({ length: 3 }, (_, index) => ({ name: `${index}`, length: 2 ** 40, set }))
  const picture = draw(blocks)
  t.ok(picture.width <= 1024 && picture.height <= 1024, `${picture.width} × ${picture.height}`)
  const { count } = pixelsOf(formatPng(picture))
  const quarter = (picture.width / 512) ** 2 * 3 * 16384
  t.equal(count(DATA), quarter)
  t.equal(count(ZERO), quarter)
  t.equal(count(DATA.map((part) => Math.round(0.3 * part))), quarter, 'one page of many is seen')
})

t.test('a running daemon looks too, and goes on when a file is none', async (t) => {
  const [path = ''] = placed(t, MAPPED)
  const socket = join(shortFolder(t), 's')
  const daemon = startDaemon(['--socket', socket])
  t.teardown(async () => {
    daemon.child.kill('SIGTERM')
    await daemon.ended
  })
  await appears(socket)
  t.match(await run(['memory', 'info', '--socket', socket, '/dev/null']), {
    status: 1,
    stderr: /neither a file/,
  })
  t.match(await run(['memory', 'info', '--socket', socket, path]), { status: 0, stdout: /complete: yes/ })
  t.match(await run(['jobs', '--socket', socket]), { status: 0 })
})
