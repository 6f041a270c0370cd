// SPDX-License-Identifier: Apache-2.0
// An image with as many tables as there can be: its first write may fail, the daemon and its other disks go on.

import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { formatHeader, parseHeader } from '../../../../../../protocol/qcow2/header.js'
import { Daemon } from '../../../../../helpers/daemon.js'
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
