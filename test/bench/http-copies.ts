// SPDX-License-Identifier: Apache-2.0
// Whole images up to an HTTP server and down from it, past the page cache on both ends, against copies of the same file on
// the same disk.

import { rmSync } from 'node:fs'
import { entryFile } from '../../daemon/common/entries.js'
import { installed } from '../helpers/program.js'
import { type Contender, type Copy, timed } from './contenders.js'
import { find, type Result, race, ratio, show } from './copies.js'
import { type ImagesServerKind, imagesServers, load } from './http-servers.js'
import { allocated, makeDense, makeScattered, makeTarget } from './images.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, print, type Verdict } from './report.js'

const GiB = 2 ** 30
const SEED = 75
const COMMAND = entryFile('blockferry')
/** Of the time of the peer with as many clients: 1.3 times as fast. */
const LIMIT = 1 / 1.3
/** Connections of those that have several. */
const CLIENTS = 4

export async function uploads(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('upload'), size }
  print(`\n## Upload of ${mebibytes(size)} without holes, O_DIRECT both ends\n`)
  makeDense(copy.source, size)
  const results = await race(
    copy,
    [...served(options, 'put'), uploading(imagesServers(options)[0]), ...copying()],
    options.rounds,
  )
  rmSync(copy.source)
  show(results)
  return against('upload', results)
}

export async function downloads(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('download'), size }
  print(`\n## Download of ${mebibytes(size)} without holes, O_DIRECT both ends\n`)
  makeDense(copy.source, size)
  const results = await race(
    copy,
    [...served(options, 'get'), downloading(imagesServers(options)[0]), ...copying()],
    options.rounds,
  )
  rmSync(copy.source)
  show(results)
  return against('download', results)
}

/** A quarter of it is data. */
export async function sparseUploads(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('sparse'), size }
  print(`\n## Upload of ${mebibytes(size)}, three quarters holes\n`)
  // Pieces of 160 KiB on average.
  makeScattered(copy.source, size, Math.floor(size / (4 * 160 * 1024)), SEED)
  const storage = allocated(copy.source)
  const results = await race(
    copy,
    [...served(options, 'holes'), uploading(imagesServers(options)[0]), ...copying(true)],
    options.rounds,
  )
  rmSync(copy.source)
  show(results)
  const [ours] = results
  const command = find(results, 'blockferry upload')
  return [
    ...against('upload of holes', results),
    ...[ours, command].flatMap((each) =>
      each === undefined
        ? []
        : atMost(`${each.name}: target’s blocks over the source’s`, each.allocated / storage, 1.01),
    ),
  ]
}

/** Time over that of the peer with as many clients. */
function against(what: string, results: readonly Result[]): Verdict[] {
  return results.flatMap((ours) => {
    if (!ours.name.startsWith('blockferryd')) return []
    const theirs = find(results, ours.name.replace('blockferryd', 'ovirt-imageio'))
    return theirs === undefined
      ? []
      : atMost(`${what}: time over ${theirs.name}’s`, ratio(ours, theirs), LIMIT)
  })
}

/** Servers, with several clients and with one. */
function served(options: BenchOptions, kind: 'put' | 'get' | 'holes'): Contender[] {
  return imagesServers(options).flatMap((server) =>
    [CLIENTS, 1].map((clients) => ({
      name: `${server.name}, ${clients} client${clients === 1 ? '' : 's'}`,
      copy: (copy: Copy) =>
        onServer(server, copy, kind === 'get' ? copy.source : copy.target, async (it, path) => {
          const file = kind === 'get' ? copy.target : copy.source
          const { seconds, cpu } = await load(kind, it, path, clients, copy.size, file)
          return { seconds, cpuSeconds: cpu }
        }),
    })),
  )
}

async function onServer(
  kind: ImagesServerKind,
  copy: Copy,
  image: string,
  work: (
    ...args: [server: Awaited<ReturnType<ImagesServerKind['start']>>, path: string]
  ) => Promise<{ readonly seconds: number; readonly cpuSeconds: number }>,
) {
  makeTarget(copy.target, copy.size)
  await using server = await kind.start(copy.directory)
  const path = await server.ticket(image, copy.size, true)
  const before = server.cpu()
  const { seconds, cpuSeconds } = await work(server, path)
  return { seconds, cpuSeconds: cpuSeconds + server.cpu() - before, peak: server.memory().peak }
}

function uploading(kind: ImagesServerKind | undefined): Contender {
  if (kind === undefined) throw new Error('no server')
  return {
    name: 'blockferry upload to blockferryd',
    copy: (copy) =>
      onServer(kind, copy, copy.target, ({ port }, path) =>
        timed([process.execPath, COMMAND, 'upload', copy.source, `http://127.0.0.1:${port}${path}`]),
      ),
  }
}

function downloading(kind: ImagesServerKind | undefined): Contender {
  if (kind === undefined) throw new Error('no server')
  return {
    name: 'blockferry download from blockferryd',
    copy: (copy) =>
      onServer(kind, copy, copy.source, ({ port }, path) => {
        const url = `http://127.0.0.1:${port}${path}`
        return timed([process.execPath, COMMAND, 'download', '--force', url, copy.target])
      }),
  }
}

/** Into a target of the right size that is there, as the servers have it. */
function copying(sparse = false): Contender[] {
  const into = (name: string, command: (copy: Copy) => readonly string[]): Contender => ({
    name,
    async copy(copy) {
      makeTarget(copy.target, copy.size)
      return await timed(command(copy))
    },
  })
  const dd = (bs: string) =>
    into(`dd bs=${bs}`, ({ source, target }) => [
      ...['dd', `if=${source}`, `of=${target}`, `bs=${bs}`, 'iflag=direct', 'oflag=direct'],
      ...[`conv=fsync,notrunc${sparse ? ',sparse' : ''}`, 'status=none'],
    ])
  const img = into('qemu-img convert -n -W -m 8', ({ source, target }) => [
    ...['qemu-img', 'convert', '-n', '-W', '-m', '8', '-f', 'raw', '-O', 'raw'],
    ...['-t', 'none', '-T', 'none', source, target],
  ])
  return [dd('8M'), dd('1M'), ...(installed('qemu-img') ? [img] : [])]
}
