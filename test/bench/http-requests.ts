// SPDX-License-Identifier: Apache-2.0
// Small requests to images over HTTP, and the extents of an image that has very many.

import { closeSync, existsSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { installed } from '../helpers/program.js'
import { fioRate } from './fio-rate.js'
import { type ImagesServer, imagesServers, load } from './http-servers.js'
import { dropCaches, makeDense } from './images.js'
import type { BenchOptions } from './options.js'
import { atLeast, atMost, mebibytes, median, print, round, table, type Verdict } from './report.js'

const [MiB, GiB] = [2 ** 20, 2 ** 30]
const SECONDS = 2
/** Times the requests of the peer. */
const LIMIT = 3
const EXTENTS = 100_000
const BLOCK = 4096

const patterns = [
  { name: 'GET 4 KiB, random, 1 connection', kind: 'small-get', clients: 1 },
  { name: 'GET 4 KiB, random, 8 connections', kind: 'small-get', clients: 8 },
  { name: 'PUT 4 KiB, random, 1 connection', kind: 'small-put', clients: 1 },
  { name: 'PUT 4 KiB, random, 8 connections', kind: 'small-put', clients: 8 },
] as const

/** From the disk, and from memory, where the servers themselves are what counts. */
export async function smallRequests(options: BenchOptions): Promise<Verdict[]> {
  const verdicts: Verdict[] = []
  for (const [name, parent] of [
    ['disk', options.directory],
    ['memory', '/dev/shm'],
  ] as const) {
    if (!existsSync(parent)) continue
    const folder = mkdtempSync(join(parent, 'http-'))
    try {
      verdicts.push(...(await onOneDisk(name, folder, options)))
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
  return verdicts
}

async function onOneDisk(where: string, folder: string, options: BenchOptions): Promise<Verdict[]> {
  const size = Math.min(options.size ?? GiB, GiB)
  print(`\n## Small requests, ${mebibytes(size)} on ${where}, requests a second\n`)
  const image = join(folder, 'image')
  makeDense(image, size)
  dropCaches()
  const kinds = imagesServers(options)
  const servers: { readonly server: ImagesServer; readonly path: string }[] = []
  const verdicts: Verdict[] = []
  try {
    for (const kind of kinds) {
      const server = await kind.start(mkdtempSync(join(folder, 's')))
      servers.push({ server, path: await server.ticket(image, size, true) })
    }
    const rows: string[][] = []
    for (const { name, kind, clients } of patterns) {
      const rates = servers.map((): number[] => [])
      // Servers run for days: what they do once is not measured.
      for (const { server, path } of servers) await load(kind, server, path, clients, size, 1)
      for (let turn = 0; turn < options.rounds; turn++)
        for (const [index, { server, path }] of servers.entries())
          rates[index]?.push((await load(kind, server, path, clients, size, SECONDS)).count / SECONDS)
      const own = installed('fio') ? [alone(image, size, kind, clients).toFixed(0)] : []
      const [ours = [], theirs] = rates
      const ratio = theirs && median(ours.map((rate, turn) => rate / (theirs[turn] ?? Number.NaN)))
      rows.push([
        name,
        ...rates.map((each) => each.map((rate) => rate.toFixed(0)).join(' ')),
        ratio === undefined ? '' : round(ratio),
        ...own,
      ])
      if (ratio !== undefined)
        verdicts.push(atLeast(`${name}, ${where}: over ${kinds[1]?.name}’s`, ratio, LIMIT))
    }
    const columns = [
      ...kinds.map(({ name }) => name),
      'ours / theirs',
      ...(installed('fio') ? ['no server'] : []),
    ]
    print(table(['', ...columns], rows))
  } finally {
    for (const { server } of servers) await server[Symbol.asyncDispose]()
  }
  return verdicts
}

/** What the disk itself does for so many who ask it one thing at a time. */
function alone(image: string, size: number, kind: 'small-get' | 'small-put', clients: number): number {
  const rw = kind === 'small-get' ? 'randread' : 'randwrite'
  const how = [
    '--ioengine=psync',
    `--filename=${image}`,
    `--rw=${rw}`,
    `--bs=${BLOCK}`,
    `--numjobs=${clients}`,
  ]
  return fioRate([...how, '--direct=1', '--group_reporting', `--size=${size}`, `--runtime=${SECONDS}`])
}

/** Data and holes of 4 KiB in turn; nothing is cached, the server has just begun. */
export async function manyExtents(options: BenchOptions): Promise<Verdict[]> {
  const size = EXTENTS * BLOCK
  print(`\n## Extents of a file with ${EXTENTS} of them, opened cold\n`)
  const { source } = options.paths('extents')
  makeComb(source, size)
  const [kind] = imagesServers(options)
  if (kind === undefined) return []
  const rounds: { first: number; seconds: number; grown: number; extents: number }[] = []
  for (let turn = 0; turn < options.rounds; turn++) {
    dropCaches()
    await using server = await kind.start(options.directory)
    const path = await server.ticket(source, size, true)
    const before = server.memory().rss
    const { first, seconds, extents } = await load('extents', server, path)
    rounds.push({ first, seconds, extents, grown: server.memory().peak - before })
  }
  rmSync(source)
  print(
    table(
      ['round', 'first byte, ms', 'all, ms', 'extents', 'memory grown'],
      rounds.map(({ first, seconds, extents, grown }, turn) => [
        String(turn + 1),
        round(first * 1000),
        round(seconds * 1000),
        String(extents),
        mebibytes(grown),
      ]),
    ),
  )
  const of = (value: (each: (typeof rounds)[number]) => number) => median(rounds.map(value))
  return [
    atLeast(
      'extents: listed',
      of(({ extents }) => extents),
      EXTENTS,
    ),
    atMost(
      'extents: seconds to the first byte',
      of(({ first }) => first),
      0.02,
      ' s',
    ),
    atMost(
      'extents: memory grown',
      of(({ grown }) => grown / MiB),
      8,
      ' MiB',
    ),
  ]
}

function makeComb(path: string, size: number): void {
  const block = Buffer.alloc(BLOCK, 7)
  const file = openSync(path, 'w')
  ftruncateSync(file, size)
  for (let at = 0; at < size; at += 2 * BLOCK) writeSync(file, block, 0, BLOCK, at)
  closeSync(file)
}
