// SPDX-License-Identifier: Apache-2.0
// Nodes with backing files in the directory: implied ones have names and an owner, move, go with their parent, and are
// shown inside it.

import t from 'tap'
import type { FormatFacts, NodeDefinition, NodeSpec } from '../../../../daemon/iothread/messages.js'
import { noStats, scriptedDaemon } from '../scripted-daemon.js'

const file = (filename: string) => ({ driver: 'file', filename }) as const
const top = { driver: 'qcow2', 'node-name': 'top', file: file('/top') } as const

/** top is over base, where nothing else is said. */
function withBase(spec: NodeSpec): NodeDefinition {
  const implied = { driver: 'qcow2', file: file('/base'), implied: true }
  return spec['node-name'] === 'top' && spec.backing === undefined ? { ...spec, backing: implied } : spec
}

function scene() {
  const daemon = scriptedDaemon()
  daemon.resolve = withBase
  return daemon
}

t.test('an implied backing file has nodes of its own, newer than its overlay', async (t) => {
  const daemon = scene()
  await daemon.run('blockdev-add', top)
  const nodes = await daemon.run('query-named-block-nodes', {})
  t.same(
    nodes.map((node) => `${node.drv} ${node.file}`),
    ['qcow2 /base', 'file /base', 'qcow2 /top', 'file /top'],
  )
  t.equal(nodes[2]?.backing_file, '/base')
  t.equal(nodes[2]?.backing_file_depth, 1)
  t.equal(nodes[2]?.image['backing-image']?.filename, '/base')
})

t.test('flat answers have no images inside each other', async (t) => {
  const daemon = scene()
  await daemon.run('blockdev-add', top)
  const nodes = await daemon.run('query-named-block-nodes', { flat: true })
  t.equal(nodes[2]?.backing_file_depth, 0)
  t.equal(nodes[2]?.image['backing-image'], undefined)
})

t.test('implied nodes belong to their overlay and go with it', async (t) => {
  const daemon = scene()
  await daemon.run('blockdev-add', top)
  const [base] = await daemon.run('query-named-block-nodes', {})
  const name = base?.['node-name'] ?? ''
  await t.rejects(daemon.run('blockdev-del', { 'node-name': name }), {
    message: `Node '${name}' is busy: node is used as backing hd of 'top'`,
  })
  await daemon.run('blockdev-del', { 'node-name': 'top' })
  t.same(await daemon.run('query-named-block-nodes', {}), [])
  t.same(daemon.placement(), [])
})

t.test('a definition without a qcow2 image asks no worker what it names', async (t) => {
  const daemon = scene()
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'r', file: file('/r') })
  t.notOk(daemon.workers[0]?.names().includes('node-resolve'))
})

t.test('when an image names what cannot be opened nothing is left of its definition', async (t) => {
  const daemon = scene()
  daemon.resolve = () => {
    throw new Error('Could not open backing file')
  }
  await t.rejects(daemon.run('blockdev-add', top), { message: 'Could not open backing file' })
  daemon.resolve = withBase
  await daemon.run('blockdev-add', top)
  t.equal((await daemon.run('query-named-block-nodes', {})).length, 4)
})

t.test('reopening an overlay names its backing file and does not change it', async (t) => {
  const daemon = scene()
  await daemon.run('blockdev-add', top)
  const [base] = await daemon.run('query-named-block-nodes', {})
  const reopen = (more: object) => daemon.run('blockdev-reopen', { options: [{ ...top, ...more }] })
  await t.rejects(reopen({}), { message: "backing is missing for 'top'" })
  await t.rejects(reopen({ backing: null }), { message: "Cannot change the option 'backing'" })
  await reopen({ backing: base?.['node-name'] ?? '' })
})

t.test('what a format says of its image is shown as the reference daemon shows it', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', { ...top, backing: null })
  const format: FormatFacts = {
    ...{ kind: 'qcow2', version: 3, clusterSize: 65536, refcountBits: 16, lazyRefcounts: false },
    ...{ extendedL2: false, compression: 'zlib', dirty: true, corrupt: false, dataFileRaw: false },
    ...{ dataFile: '/data', backingFile: 'base', backingFormat: 'qcow2' },
    snapshots: [{ id: '1', name: 's', vmStateSize: 0, seconds: 5, nanoseconds: 6, guestClock: 7e9 + 8 }],
    bitmaps: [{ name: 'b', granularity: 65536, inUse: true, auto: true }],
  }
  const [worker] = daemon.workers
  const shown = async (format: FormatFacts) => {
    worker?.say({
      kind: 'nodes',
      gone: [],
      nodes: [
        {
          ...{ name: 'top', driver: 'qcow2', children: {}, filename: '/top', readOnly: false, size: 64 },
          ...{ cache: { direct: false, noFlush: false }, detectZeroes: 'off', dirtyBitmaps: [] },
          ...{ format, fullBacking: '/base', stats: noStats },
        },
      ],
    })
    return (await daemon.run('query-named-block-nodes', {}))[0]?.image
  }
  t.strictSame(await shown(format), {
    'virtual-size': 64,
    filename: '/top',
    format: 'qcow2',
    snapshots: [
      {
        ...{ id: '1', name: 's', 'vm-state-size': 0, 'date-sec': 5, 'date-nsec': 6 },
        ...{ 'vm-clock-sec': 7, 'vm-clock-nsec': 8 },
      },
    ],
    'cluster-size': 65536,
    'backing-filename': 'base',
    'full-backing-filename': '/base',
    'backing-filename-format': 'qcow2',
    'format-specific': {
      type: 'qcow2',
      data: {
        ...{ compat: '1.1', 'compression-type': 'zlib', 'refcount-bits': 16, 'lazy-refcounts': false },
        bitmaps: [{ flags: ['in-use', 'auto'], name: 'b', granularity: 65536 }],
        ...{ 'data-file': '/data', 'data-file-raw': false, corrupt: false, 'extended-l2': false },
      },
    },
    'dirty-flag': true,
  })
  const old = await shown({ ...format, version: 2 })
  t.strictSame(old?.['format-specific'], {
    type: 'qcow2',
    data: { compat: '0.10', 'compression-type': 'zlib', 'refcount-bits': 16 },
  })
})
