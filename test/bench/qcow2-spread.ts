// SPDX-License-Identifier: Apache-2.0
// A 1 TiB image with 16 GiB in it: what opening reads and takes, and how far random reads let memory grow.

import { rmSync } from 'node:fs'
import { Daemon } from '../helpers/daemon.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { pace } from '../helpers/waiting.js'
import type { BenchOptions } from './options.js'
import { makeSpread } from './qcow2-images.js'
import { atMost, mebibytes, median, print, round, type Verdict } from './report.js'

const MiB = 2 ** 20
const TiB = 2 ** 40
const CLUSTER = 65536
/** L2 tables and refcount blocks kept by default: 32 MiB and a quarter MiB. */
const CACHE = 32.25 * MiB
const READS = 200_000

/** `--size` is the virtual size here too, divided by 64: it is given for images that are full. */
export async function spread(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size === undefined ? TiB : options.size * 64
  const { source, directory } = options.paths('spread')
  print(`\n## ${mebibytes(size)} virtual, ${mebibytes(size / 64)} allocated\n`)
  makeSpread(source, size, size / 64)
  await using daemon = await Daemon.start({ directory })
  const { client } = daemon
  const open = async (): Promise<number> => {
    // The image is read past the page cache; the program's own files may be there.
    const begin = performance.now()
    const file = { driver: 'file', 'node-name': 'file', filename: source, cache: { direct: true } }
    await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'image', 'read-only': true, file })
    return performance.now() - begin
  }
  const times: number[] = []
  for (let turn = 0; turn < options.rounds; turn++) {
    if (turn > 0) await client.execute('blockdev-del', { 'node-name': 'image' })
    times.push(await open())
  }
  print(`opened in ${times.map(round).join(' ')} ms\n`)
  const read = await bytesRead(client, 'file')
  // Header cluster and L1: 8 bytes for each table of 8192 clusters.
  const expected = CLUSTER + Math.ceil(((size / CLUSTER / 8192) * 8) / CLUSTER) * CLUSTER
  // The thread that the image took is replaced after some seconds; that is not what is measured here.
  await pace(5000)
  const before = daemon.memory().rss
  await randomReads(client, size)
  const growth = daemon.memory().rss - before
  await client.execute('blockdev-del', { 'node-name': 'image' })
  rmSync(source)
  return [
    atMost('spread: opening', median(times), 50, ' ms'),
    atMost('spread: read to open', read / 1024, expected / 1024, ' KiB'),
    atMost('spread: RSS growth by random reads', growth / MiB, CACHE / MiB + 16, ' MiB'),
  ]
}

async function bytesRead(client: QmpClient, name: string): Promise<number> {
  const all = (await client.execute('query-blockstats', { 'query-nodes': true })) as readonly {
    'node-name': string
    stats: { rd_bytes: number }
  }[]
  return all.find((one) => one['node-name'] === name)?.stats.rd_bytes ?? Number.NaN
}

/** Steps of the golden ratio reach every part of the image in an order that no cache can guess. */
async function randomReads(client: QmpClient, size: number): Promise<void> {
  const step = Math.floor((size * 0.6180339887) / 4096) * 4096 + 4096
  const pattern = { count: READS, depth: 16, size: 4096, step }
  await client.execute('x-bench', { 'job-id': 'reads', node: 'image', ...pattern })
  await client.status('reads', 'concluded', 600_000)
  await client.execute('job-dismiss', { id: 'reads' })
}
