// SPDX-License-Identifier: Apache-2.0
// Claims over nodes with several children: what reaches a backing file, all leaves or none, and who settles when.

import t from 'tap'
import { CommandError } from '../../../../daemon/errors.js'
import { Claims } from '../../../../daemon/iothread/block/claims.js'
import type { BlockDriver, ChildPermissions, Permissions } from '../../../../daemon/iothread/block/driver.js'
import { CompressDriver } from '../../../../daemon/iothread/block/drivers/compress.js'
import { BlockNode } from '../../../../daemon/iothread/block/node.js'
import { type Child, Records, type Role } from '../../../../daemon/iothread/block/records.js'

const writer: Permissions = {
  use: ['consistent read', 'write'],
  share: ['consistent read', 'write unchanged'],
}
const reader: Permissions = { use: ['consistent read'], share: ['consistent read', 'write unchanged'] }

/** Nodes whose drivers write down what is asked of their locks and when they settle. */
function scene() {
  const seen: string[] = []
  const unsettled: string[] = []
  const records = new Records()
  const failed = (node: BlockNode, error: unknown) => unsettled.push(`${node.name}: ${String(error)}`)
  const claims = new Claims(records, failed, () => undefined)
  const add = (
    name: string,
    children: Partial<Record<Role, BlockNode>>,
    more: Partial<BlockDriver> = {},
    readOnly = false,
  ): BlockNode => {
    const driver = {
      ...({ type: 'x-memory', length: () => 0 } as BlockDriver),
      settle: async () => void seen.push(`${name} settles`),
      ...(Object.keys(children).length === 0 && {
        lock: async (permissions: Permissions | undefined) =>
          void seen.push(`${name}: ${permissions?.use.join(', ') ?? 'no lock'}`),
      }),
      ...more,
    }
    const options = { readOnly, autoReadOnly: false, discard: 'ignore', detectZeroes: 'off' } as const
    const rest = { noFlush: false, direct: false, forceShare: false }
    const node = new BlockNode(name, driver, { ...options, ...rest }, () => false)
    const edges = Object.entries(children).map(([role, node]) => ({ role, node, inline: true }) as Child)
    const state = { facts: undefined, bitmap: undefined, sent: undefined, closing: false }
    records.add({ node, children: edges, spec: { driver: 'x', 'node-name': name }, ...state })
    return node
  }
  return { seen, unsettled, records, claims, add, take: () => seen.splice(0) }
}

t.test('a writer of an overlay only reads its backing file', async (t) => {
  const s = scene()
  const base = s.add('base', {}, {}, true)
  const top = s.add('top', { file: s.add('file', {}), backing: base })
  const release = await s.claims.claim('a job', top, writer)
  t.same(s.take(), ['base: consistent read', 'file: consistent read, write'])
  await t.rejects(s.claims.claim('other', base, { use: ['write'], share: ['consistent read'] }), CommandError)
  t.equal(s.claims.cumulative(base)?.share.includes('write'), false)
  await release()
})

t.test('two overlays share a backing file', async (t) => {
  const s = scene()
  const base = s.add('base', {}, {}, true)
  const one = s.add('one', { file: s.add('f1', {}), backing: base })
  const two = s.add('two', { file: s.add('f2', {}), backing: base })
  const first = await s.claims.claim('a job', one, writer)
  const second = await s.claims.claim('a job', two, writer)
  s.take()
  await first()
  t.ok(s.take().includes('base: consistent read'))
  await second()
  t.ok(s.take().includes('base: no lock'))
})

t.test('a driver says what it wants of each child', async (t) => {
  const s = scene()
  const childPermissions: ChildPermissions = (role, own) =>
    role === 'file' ? { use: ['write', 'resize'], share: [] } : own
  const top = s.add('top', { file: s.add('file', {}), 'data-file': s.add('data', {}) }, { childPermissions })
  await s.claims.claim('a job', top, writer)
  t.same(s.take(), ['data: consistent read, write', 'file: write, resize'])
})

t.test('a lock that is refused gives back those taken before it', async (t) => {
  const s = scene()
  const refuse = {
    lock: async () => {
      throw new CommandError('Failed to get "write" lock')
    },
  }
  const top = s.add('top', { backing: s.add('a', {}), file: s.add('b', {}, refuse) })
  await t.rejects(s.claims.claim('a job', top, reader), { message: 'Failed to get "write" lock' })
  t.same(s.take(), ['a: consistent read', 'a: no lock'])
  t.notOk(s.claims.isClaimed(top))
})

t.test('who loses its last user settles, top first, before locks are given back', async (t) => {
  const s = scene()
  const base = s.add('base', { file: s.add('c', {}) })
  const top = s.add('top', { file: s.add('b', {}), backing: base })
  const filter = s.add('a', { file: top })
  const other = await s.claims.claim('another job', base, reader)
  const release = await s.claims.claim('a job', filter, writer)
  s.take()
  await release()
  t.same(s.take(), ['a settles', 'top settles', 'b settles', 'b: no lock', 'c: consistent read'])
  await other()
  t.same(s.take(), ['base settles', 'c settles', 'c: no lock'])
})

t.test('who loses its last writer settles although it is still read', async (t) => {
  const s = scene()
  const node = s.add('n', {})
  const share = writer.share.concat('write')
  await s.claims.claim('reader', node, { ...reader, share })
  const release = await s.claims.claim('writer', node, { ...writer, share })
  s.take()
  await release()
  t.same(s.take(), ['n settles', 'n: consistent read'])
})

t.test('a driver that cannot settle is told of, and its locks are given back', async (t) => {
  const s = scene()
  const settle = async () => {
    throw new Error('no')
  }
  const top = s.add('top', { file: s.add('file', {}) }, { settle })
  await (await s.claims.claim('a job', top, reader))()
  t.same(s.unsettled, ['top: Error: no'])
  t.equal(s.take().at(-1), 'file: no lock')
})

t.test('claims reach through a chain of 200 images at once', async (t) => {
  const s = scene()
  let top = s.add('leaf', {})
  for (let index = 0; index < 200; index++)
    top = s.add(`n${index}`, { file: s.add(`f${index}`, {}), backing: top })
  const release = await s.claims.claim('a job', top, reader)
  t.equal(s.take().length, 201)
  await release()
  t.equal(s.claims.cumulative(top), undefined)
})

t.test('what is written through compress is to be stored compressed', async (t) => {
  const s = scene()
  const hows: unknown[] = []
  const write = async (_offset: number, _from: unknown, how: unknown) => void hows.push(how)
  const limits = { requestAlign: 1, maxTransfer: 1, zeroAlign: 1 }
  const below = s.add('below', {}, { write, limits })
  await new CompressDriver(below).write(0, { slot: 0, offset: 0, length: 0 }, { fua: true })
  t.same(hows, [{ fua: true, compressed: true }])
})
