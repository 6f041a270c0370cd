// SPDX-License-Identifier: Apache-2.0
// Completed, a drive-mirror leaves its target to the users of the source, which goes with the last of them; cancelled or failed,
// they stay where they are. A guest that writes all the time must not see any of it.

import t from 'tap'
import {
  check,
  compare,
  complete,
  guestOn,
  lab,
  left,
  mirror,
  nodes,
  SIZE,
  serve,
  served,
  servedNode,
  unserve,
} from '../helpers/drive-lab.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import { difference, empty, MiB, rawNode } from '../helpers/scratch.js'
import { BLOCK } from '../helpers/stamped-disk.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

const targets = [
  { name: 'a raw file', args: { format: 'raw' } },
  { name: 'a qcow2 image', args: { format: 'qcow2' } },
  { name: 'a raw file that is there', args: { format: 'raw', mode: 'existing' } },
  {
    name: 'a raw file, with copy-mode write-blocking,',
    args: { format: 'raw', 'copy-mode': 'write-blocking' },
  },
] as const

for (const { name, args } of targets)
  t.test(`a guest goes on with ${name} and loses nothing`, { skip }, async (t) => {
    await using made = await served()
    const { client, scratch, socket } = made
    const guest = await guestOn(t, socket)
    const target = scratch.file('copy')
    if ('mode' in args) empty(target, SIZE)
    await mirror(client, target, { ...args, 'node-name': 'tgt' })
    await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    t.equal(await complete(client), undefined)
    t.equal(await servedNode(client), 'tgt')
    t.equal((await nodes(client)).get('tgt'), target)
    await guest.goOn()
    await client.execute('blockdev-del', { 'node-name': 'src' })
    await guest.goOn()
    await guest.stop()
    const other = await GuestClient.connect(socket, 'disk')
    await guest.stamped.verify(other)
    other.end()
    await unserve(client)
    t.same([...(await nodes(client)).keys()], [])
    t.notMatch(
      compare(scratch.file('src'), 'raw', target, args.format),
      /identical/,
      'the source stayed behind',
    )
    if (args.format === 'qcow2') check(t, target)
  })

for (const name of ['tgt', undefined])
  t.test(`a target ${name === undefined ? 'without' : 'with'} a name goes with its last user`, async (t) => {
    await using made = await served()
    const { client, scratch } = made
    const target = scratch.file('copy')
    await mirror(client, target, name === undefined ? {} : { 'node-name': name })
    await client.event('BLOCK_JOB_READY')
    t.equal(await complete(client), undefined)
    const node = (await servedNode(client)) ?? ''
    if (name === undefined) t.match(node, /^#block/)
    else t.equal(node, name)
    t.equal((await nodes(client)).get(node), target)
    await t.rejects(client.execute('blockdev-del', { 'node-name': node }), {
      message: `Node ${node} is in use`,
    })
    await client.execute('block-export-add', { type: 'nbd', id: 'f', name: 'again', 'node-name': node })
    await unserve(client)
    t.ok((await nodes(client)).has(node), 'somebody uses it still')
    await client.execute('block-export-del', { id: 'f' })
    t.notOk((await nodes(client)).has(node))
    t.ok((await nodes(client)).has('src'), 'the source is its user’s')
    await serve(client, 'src')
    await mirror(client, target, { mode: 'existing' })
  })

t.test('a target that nobody moves to goes with its job', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await unserve(client)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['src']), ['src'])
  t.equal(difference(scratch.file('src'), scratch.file('copy')), undefined)
})

t.test('a target that a node lies above goes with that node', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await unserve(client)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'above', file: 'src' })
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['above', 'src', 'tgt']), ['above', 'src', 'tgt'])
  await t.rejects(client.execute('blockdev-del', { 'node-name': 'tgt' }), {
    message: 'Node tgt is not owned by the monitor',
  })
  await client.execute('blockdev-del', { 'node-name': 'above' })
  t.same(await left(client, ['src']), ['src'])
})

t.test('a guest goes from target to target, and those it left go too', async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await guestOn(t, socket)
  for (const [device, target] of [
    ['src', 'one'],
    ['one', 'two'],
    ['two', 'three'],
  ] as const) {
    await mirror(client, scratch.file(target), { device, 'node-name': target })
    await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    t.equal(await complete(client), undefined)
    t.same(await left(client, ['src', target]), ['src', target].sort())
    t.equal(await servedNode(client), target)
    await guest.goOn()
  }
  await guest.stop()
  await unserve(client)
  t.same(await left(client, ['src']), ['src'])
})

for (const { name, ready, force } of [
  { name: 'before it is ready', ready: false, force: false },
  { name: 'when it is ready', ready: true, force: false },
  { name: 'by force when it is ready', ready: true, force: true },
])
  t.test(`cancelled ${name}, a drive-mirror leaves users where they are`, async (t) => {
    await using made = await served()
    const { client, scratch, socket } = made
    const guest = await guestOn(t, socket)
    await mirror(client, scratch.file('copy'), { 'node-name': 'tgt', ...(!ready && { speed: 65536 }) })
    if (ready) await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    await client.execute('block-job-cancel', { device: 'j', force })
    await client.status('j', 'null')
    t.equal(await servedNode(client), 'src')
    t.same(await left(client, ['src']), ['src'])
    await guest.goOn()
    await guest.stop()
  })

t.test('a target is put in the place of what only a filter separates from the source', async (t) => {
  await using made = await lab()
  const { client, scratch, socket } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('disk', scratch.file('src')))
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'src', file: 'disk' })
  await serve(client, 'src')
  const replaced = { replaces: 'disk', 'node-name': 'tgt' }
  await t.rejects(mirror(client, scratch.file('copy'), replaced), { message: /^Cannot replace 'disk'/ })
  await unserve(client)
  await client.execute('blockdev-del', { 'node-name': 'src' })
  await client.execute('blockdev-add', { driver: 'x-inject', 'node-name': 'src', file: 'disk', rules: [] })
  await serve(client, 'src')
  const guest = await guestOn(t, socket)
  await mirror(client, scratch.file('copy'), replaced)
  await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  await client.execute('blockdev-del', { 'node-name': 'disk' })
  await guest.goOn()
  await guest.stop()
  await unserve(client)
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.same(await left(client, []), [])
})

t.test('an overlay on the target keeps it, and both go in their order', { skip }, async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await guestOn(t, socket)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
  t.equal(await complete(client), undefined)
  await client.execute('blockdev-snapshot-sync', {
    ...{ 'node-name': 'tgt', 'snapshot-file': scratch.file('over'), 'snapshot-node-name': 'over' },
  })
  t.equal(await servedNode(client), 'over')
  await guest.goOn()
  t.same(await left(client, ['over', 'src', 'tgt']), ['over', 'src', 'tgt'])
  client.events.length = 0
  await client.execute('block-commit', { 'job-id': 'c', device: 'over', 'auto-dismiss': false })
  await client.status('c', 'ready')
  await client.execute('job-complete', { id: 'c' })
  await client.status('c', 'concluded')
  t.equal(await servedNode(client), 'tgt')
  await guest.goOn()
  await guest.stop()
  await client.execute('blockdev-del', { 'node-name': 'over' })
  await unserve(client)
  t.same(await left(client, ['src']), ['src'])
})

t.test('a new image of what a bitmap marks is nobody’s disk', { skip }, async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(0, Buffer.alloc(BLOCK, 1))
  await client.execute('block-dirty-bitmap-add', { node: 'src', name: 'b' })
  await guest.write(MiB, Buffer.alloc(BLOCK, 2))
  await mirror(client, scratch.file('copy'), { sync: 'incremental', bitmap: 'b', format: 'qcow2' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  t.equal((await guest.read(0, BLOCK))[0], 1)
  t.same(await left(client, ['src']), ['src'])
  guest.end()
})
