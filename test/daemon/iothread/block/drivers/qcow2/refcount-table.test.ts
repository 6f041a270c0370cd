// SPDX-License-Identifier: Apache-2.0
// How large the next refcount table is: it counts itself, and stays one that can be opened. And where the old one was, others
// come. A block that it names counts its own cluster.

import { closeSync, openSync, readSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { EIO } from '../../../../../../daemon/common/errno.js'
import { IoError } from '../../../../../../daemon/errors.js'
import { largerTable } from '../../../../../../daemon/iothread/block/drivers/qcow2/refcount-table.js'
import { parseHeader } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

const MOST = (8 << 20) / 8

for (const cluster of [512, 4096, 65536, 2 ** 21])
  for (const bits of [1, 16, 64])
    t.test(
      `clusters of ${cluster}, counts of ${bits} bits: it grows up to 8 MiB and no further`,
      async (t) => {
        const blockEntries = (cluster * 8) / bits
        let entries = cluster / 8
        for (;;) {
          const larger = largerTable(entries, entries + 1, cluster, blockEntries)
          if (larger === undefined) break
          const { blocks, clusters } = larger
          const next = (clusters * cluster) / 8
          if (next > MOST || next < entries + blocks) t.fail(`${entries} entries become ${next}`)
          if (blocks * blockEntries < blocks + clusters) t.fail('the new blocks do not count what is new')
          entries = next
        }
        t.equal(entries, MOST, 'all of the room was used')
      },
    )

t.test('one that was nearly as long as it may be becomes that long', async (t) => {
  t.equal(largerTable(700_032, 700_033, 512, 64)?.clusters, (8 << 20) / 512)
  t.equal(largerTable(MOST, MOST + 1, 512, 64), undefined)
})

t.test('the place of a table that was too short is used again at once', { skip }, async (t) => {
  const CLUSTER = 512
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512,refcount_bits=64', filename, '4M')
  const g = testGraph(t)
  const node = await openImage(g, filename)
  const fd = openSync(filename, 'r')
  t.teardown(() => closeSync(fd))
  const tableOffset = () => {
    const header = Buffer.alloc(CLUSTER)
    readSync(fd, header, 0, CLUSTER, 0)
    return parseHeader(header).refcountTableOffset
  }
  const old = tableOffset()
  let at = 0
  const next = async () => {
    await g.write(node, at, new Uint8Array(CLUSTER).fill(1))
    at += CLUSTER
  }
  while (tableOffset() === old) await next()
  // One of them may be an L2 table.
  for (let more = 0; more < 2; more++) await next()
  const hosts: (number | undefined)[] = []
  for (let from = at - 4 * CLUSTER; from < at; from += CLUSTER)
    hosts.push((await node.status(from, CLUSTER)).host)
  t.ok(hosts.includes(old), `${hosts.join()} and ${old}`)
  await g.graph.remove(node.name)
  t.match(oracle(filename), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('a block that is named counts itself, also where little of it is in memory', { skip }, async (t) => {
  const [CLUSTER, MiB] = [16384, 2 ** 20]
  // The first cluster that the second block counts.
  const block = (CLUSTER / 8) * CLUSTER
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    `cluster_size=${CLUSTER},refcount_bits=64`,
    filename,
    '40M',
  )
  const g = testGraph(t)
  const node = await openImage(g, filename, { 'refcount-cache-size': 1024 })
  const file = g.graph.node(`${node.name}-file`)
  const read = file.read.bind(file)
  let failures = 1
  file.read = async (offset, into, how) => {
    if (offset === block && failures-- > 0) throw new IoError(EIO, 'read', filename, offset, 0)
    return await read(offset, into, how)
  }
  const bytes = new Uint8Array(MiB).fill(1)
  let written = 0
  for (let at = 0; at < 40 * MiB; at += MiB) {
    const failed = await g.write(node, at, bytes).catch((error: unknown) => error)
    if (failed === undefined) written += 1
    else t.match(failed, { code: 'EIO' })
  }
  t.ok(written >= 39, `${written} of 40`)
  await g.graph.remove(node.name)
  t.match(oracle(filename), { corruptions: 0, checkErrors: 0 })
})
