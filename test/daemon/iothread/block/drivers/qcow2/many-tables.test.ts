// SPDX-License-Identifier: Apache-2.0
// An image with as many tables as there can be: its first write may fail, the daemon and its other disks go on. What is known of
// tables takes bounded memory, and one table more than that is refused.

import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { formatHeader, parseHeader } from '../../../../../../protocol/qcow2/header.js'
import { bytesHeld } from '../../../../../helpers/bytes-held.js'
import { Daemon } from '../../../../../helpers/daemon.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { smallImage } from '../../../../../helpers/qcow2-image.js'
import { shortFolder } from '../../../../../helpers/short-folder.js'

const CLUSTER = 512
/** Of 512 bytes, each of which shows 32 KiB: a disk of 128 GiB. */
const TABLES = 2 ** 22

/** Header, L1, refcount table and block, then tables without an entry, for which the file has no storage. */
function image(filename: string): void {
  const l1Offset = CLUSTER
  const l1Size = TABLES
  const refcountTableOffset = l1Offset + l1Size * 8
  const block = refcountTableOffset + CLUSTER
  const first = block + CLUSTER
  const header = {
    ...parseHeader(smallImage()),
    ...{ clusterBits: 9, size: TABLES * 64 * CLUSTER, l1Offset, l1Size },
    ...{ refcountTableOffset, refcountTableClusters: 1 },
  }
  const l1 = Buffer.alloc(l1Size * 8)
  for (let index = 0; index < l1Size; index++)
    l1.writeBigUInt64BE((1n << 63n) | BigInt(first + index * CLUSTER), index * 8)
  const table = Buffer.alloc(CLUSTER)
  table.writeBigUInt64BE(BigInt(block))
  const fd = openSync(filename, 'w')
  writeSync(fd, formatHeader(header))
  writeSync(fd, l1, 0, l1.length, l1Offset)
  writeSync(fd, table, 0, CLUSTER, refcountTableOffset)
  writeSync(fd, Buffer.alloc(CLUSTER).fill(1), 0, CLUSTER, block)
  ftruncateSync(fd, first + l1Size * CLUSTER)
  closeSync(fd)
}

t.test('a write to an image of four million tables leaves the daemon alive', async (t) => {
  const directory = shortFolder(t)
  writeFileSync(path.join(directory, 'other.raw'), 'x'.repeat(4096))
  const filename = path.join(directory, 'many.qcow2')
  image(filename)
  await using daemon = await Daemon.start({ directory })
  const { client } = daemon
  const file = (name: string) => ({ driver: 'file', filename: path.join(directory, name) })
  await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'many', file: file('many.qcow2') })
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'other', file: file('other.raw') })
  for (const node of ['many', 'other']) {
    const pattern = { count: 1, depth: 1, size: 512, write: true }
    await client.execute('x-bench', { 'job-id': node, node, ...pattern })
    await client.status(node, 'concluded', 120_000)
  }
  const jobs = (await client.execute('query-jobs')) as readonly { id: string; error?: string }[]
  t.equal(jobs.find(({ id }) => id === 'other')?.error, undefined)
  t.match(jobs.find(({ id }) => id === 'many')?.error ?? 'done', /done|Input\/output|corrupt|too large/i)
})

/** Clusters of tables that may be known besides one for each entry of the L1 table. */
const MOST_KNOWN = 2 ** 22
/** Of the small image below. */
const SMALL = 4096

/** Clusters of tables of an image whose snapshot has so many L2 tables: header, L1, L2, snapshot table, the snapshot's L1. */
const known = (tables: number) => 4 + Math.ceil((tables * 8) / SMALL) + tables

/** Behind the small image the snapshot table, the snapshot's L1 table, and room for its L2 tables, without storage. */
function withSnapshot(filename: string, tables: number): void {
  const snapshotsOffset = 6 * SMALL
  const l1Offset = snapshotsOffset + SMALL
  const first = l1Offset + Math.ceil((tables * 8) / SMALL) * SMALL
  const entry = Buffer.alloc(64)
  entry.writeBigUInt64BE(BigInt(l1Offset))
  entry.writeUInt32BE(tables, 8)
  entry.writeUInt16BE(1, 12)
  entry.writeUInt32BE(16, 36)
  entry.writeBigUInt64BE(BigInt(2 ** 20), 48)
  entry.write('1', 56)
  const l1 = Buffer.alloc(tables * 8)
  for (let index = 0; index < tables; index++) l1.writeBigUInt64BE(BigInt(first + index * SMALL), index * 8)
  const fd = openSync(filename, 'w')
  writeSync(fd, smallImage({ snapshotCount: 1, snapshotsOffset }))
  writeSync(fd, entry, 0, entry.length, snapshotsOffset)
  writeSync(fd, l1, 0, l1.length, l1Offset)
  ftruncateSync(fd, first + tables * SMALL)
  closeSync(fd)
}

t.test('of four million tables of snapshots all are known, in 80 MiB; one more is refused', async (t) => {
  const filename = path.join(t.testdir({}), 'a.qcow2')
  let tables = MOST_KNOWN
  while (known(tables) > MOST_KNOWN + 1) tables -= 1
  for (const more of [0, 1]) {
    withSnapshot(filename, tables + more)
    const g = testGraph(t)
    const node = await openImage(g, filename, { 'overlap-check': 'all' })
    const before = bytesHeld()
    const written = g.write(node, 0, new Uint8Array(SMALL).fill(1))
    if (more === 0) await written
    else await t.rejects(written, { code: 'EFBIG' })
    const bytes = bytesHeld() - before
    t.ok(bytes <= 80 * 2 ** 20, `${bytes} bytes`)
    await g.graph.remove(node.name)
  }
})
