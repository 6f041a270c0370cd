// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- nbd`: exports of the same image by blockferryd, qemu-storage-daemon and qemu-nbd, used by fio's NBD
// client one after the other. From memory through the page cache, which shows what the servers themselves cost, and from
// the disk with O_DIRECT.

import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { blockferryd, installed, type Program, start, storageDaemon } from '../helpers/program.js'
import { pace } from '../helpers/waiting.js'
import { fioRate } from './fio-rate.js'
import { dropCaches, makeDense } from './images.js'
import type { BenchOptions } from './options.js'
import { atLeast, median, print, round, table, type Verdict } from './report.js'

const MiB = 2 ** 20
const GiB = 2 ** 30
const SECONDS = 2
const EXPORT = 'x'

interface Pattern {
  readonly name: string
  readonly rw: string
  readonly size: string
  readonly depth: number
}

const patterns: readonly Pattern[] = [
  { name: 'read 1 MiB, in order', rw: 'read', size: '1m', depth: 4 },
  { name: 'write 1 MiB, in order', rw: 'write', size: '1m', depth: 4 },
  { name: 'read 4 KiB, random, 1 at a time', rw: 'randread', size: '4k', depth: 1 },
  { name: 'write 4 KiB, random, 1 at a time', rw: 'randwrite', size: '4k', depth: 1 },
  { name: 'read 4 KiB, random, 64 at once', rw: 'randread', size: '4k', depth: 64 },
  { name: 'write 4 KiB, random, 64 at once', rw: 'randwrite', size: '4k', depth: 64 },
]

interface Server extends AsyncDisposable {
  readonly name: string
  readonly uri: string
}

interface Disk {
  readonly name: string
  /** Of the image and of the servers' sockets. */
  readonly folder: string
  readonly image: string
  /** Bytes. */
  readonly size: number
  readonly direct: boolean
}

export async function nbd(options: BenchOptions): Promise<Verdict[]> {
  if (!installed('fio')) throw new Error('no fio')
  const size = options.size ?? GiB
  const verdicts: Verdict[] = []
  for (const [name, parent, direct] of [
    ['memory', '/dev/shm', false],
    ['disk', options.directory, true],
  ] as const) {
    if (!existsSync(parent)) continue
    const folder = mkdtempSync(join(parent, 'nbd-'))
    try {
      verdicts.push(...(await race({ name, folder, image: join(folder, 'image'), size, direct }, options)))
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
  return verdicts
}

async function race(disk: Disk, options: BenchOptions): Promise<Verdict[]> {
  print(`\n## NBD exports of ${disk.size / MiB} MiB, ${disk.name}, requests a second\n`)
  makeDense(disk.image, disk.size)
  dropCaches()
  const servers: Server[] = []
  const verdicts: Verdict[] = []
  try {
    for (const begin of [
      () => exported('blockferryd', blockferryd, disk),
      () => exported('qemu-storage-daemon', storageDaemon(options.qemu10), disk, { locking: 'off' }),
      () => qemuNbd(disk),
    ])
      servers.push(await begin())
    const names = servers.map(({ name }) => name)
    const rows: string[][] = []
    for (const pattern of patterns) {
      const rates = await measured(servers, pattern, disk, options.rounds)
      const ours = rates[0] ?? []
      const ratios = rates
        .slice(1)
        .map((theirs) => median(ours.map((rate, turn) => rate / (theirs[turn] ?? 0))))
      rows.push([
        pattern.name,
        ...rates.map((each) => each.map((rate) => rate.toFixed(0)).join(' ')),
        ...ratios.map(round),
      ])
      for (const [index, ratio] of ratios.entries())
        verdicts.push(atLeast(`nbd, ${disk.name}: ${pattern.name}, over ${names[index + 1]}’s`, ratio, 1))
    }
    print(table(['', ...names, ...names.slice(1).map((name) => `ours / ${name}`)], rows))
  } finally {
    for (const server of servers) await server[Symbol.asyncDispose]()
  }
  return verdicts
}

async function measured(
  servers: readonly Server[],
  pattern: Pattern,
  disk: Disk,
  rounds: number,
): Promise<number[][]> {
  const rates = servers.map((): number[] => [])
  for (let turn = 0; turn < rounds; turn++)
    for (const [index, { uri }] of servers.entries()) rates[index]?.push(requests(uri, pattern, disk.size))
  return rates
}

/** Requests a second that fio's client gets done. */
function requests(uri: string, { rw, size, depth }: Pattern, length: number): number {
  const how = ['--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${size}`, `--iodepth=${depth}`]
  return fioRate([...how, `--size=${length}`, `--runtime=${SECONDS}`])
}

async function exported(name: string, program: Program, disk: Disk, locking: object = {}): Promise<Server> {
  const folder = mkdtempSync(join(disk.folder, 's'))
  // A program of a Debian folder sees the image, too.
  const daemon = await Daemon.start({
    directory: folder,
    program: { name, command: () => program.command(disk.folder) },
  })
  const { client } = daemon
  const path = join(folder, 'nbd.sock')
  const file = {
    ...{ driver: 'file', filename: disk.image, aio: 'io_uring', cache: { direct: disk.direct } },
    ...locking,
  }
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'disk', file })
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
  const options = { type: 'nbd', id: 'e', 'node-name': 'disk', name: EXPORT, writable: true }
  await client.execute('block-export-add', options)
  return { name, uri: uriOf(path), [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose]() }
}

/** The image as export `x`, on the socket `qemu-nbd.sock` of the folder. */
export async function qemuNbd(disk: Pick<Disk, 'folder' | 'image' | 'direct'>): Promise<Server> {
  const path = join(disk.folder, 'qemu-nbd.sock')
  // Only the socket of this server shows that it is there.
  rmSync(path, { force: true })
  const image = `driver=raw,file.driver=file,file.locking=off,file.filename=${disk.image}`
  const running = start([
    ...(['qemu-nbd', '-k', path, '-x', EXPORT, '-e', '16', '-t', '--aio=io_uring'] as const),
    ...[`--cache=${disk.direct ? 'none' : 'writeback'}`, '--image-opts', image],
  ])
  while (!existsSync(path)) {
    if (running.child.exitCode !== null) throw new Error(`qemu-nbd: ${running.stderr()}`)
    await pace(20)
  }
  return {
    name: 'qemu-nbd',
    uri: uriOf(path),
    async [Symbol.asyncDispose]() {
      await running.stop()
    },
  }
}

function uriOf(path: string): string {
  return `nbd+unix:///${EXPORT}?socket=${path}`
}
