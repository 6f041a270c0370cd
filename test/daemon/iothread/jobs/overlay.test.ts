// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { createImage } from '../../../../daemon/iothread/jobs/create.js'
import { emptyImage } from '../../../../daemon/iothread/jobs/overlay.js'
import { testGraph } from '../../../helpers/graph.js'

const MIB = 2 ** 20
const CLUSTER = 65536

t.test('what is dropped from an image is dirty in its bitmaps', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'memory', size: 0 })
  const options = {
    ...({ size: 4 * MIB, version: 3, clusterSize: CLUSTER, refcountBits: 16, extendedL2: false } as const),
    ...({ lazyRefcounts: false, compression: 'zlib', preallocation: 'off', dataFileRaw: false } as const),
    ...{ backingFile: undefined, backingFormat: undefined, dataFileName: undefined },
  }
  const spec = { kind: 'create', driver: 'qcow2', file: 'memory', dataFile: undefined, options } as const
  await createImage(g.graph, spec, new Buffers(g.engine), new AbortController().signal)
  const node = await g.add({ driver: 'qcow2', 'node-name': 'image', file: 'memory', backing: null })
  await g.write(node, MIB, Buffer.alloc(512, 1))
  await g.graph.bitmaps.change([
    {
      ...{ kind: 'add', node: 'image', name: 'b', granularity: CLUSTER },
      ...{ persistent: false, recording: true },
    },
  ])
  await emptyImage(g.graph, node)
  t.equal((await g.read(node, MIB, 512))[0], 0)
  const { bits } = node.bitmaps.get('b')
  t.same(bits.nextDirty(0, 4 * MIB), { offset: MIB, length: CLUSTER })
  t.equal(bits.count, CLUSTER)
})
