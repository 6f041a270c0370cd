// SPDX-License-Identifier: Apache-2.0
// Users who move to the target of a drive-mirror see all layers that the source had, whatever part of them was copied.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t from 'tap'
import {
  check,
  compare,
  complete,
  type Lab,
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
import { empty, MiB, rawNode } from '../helpers/scratch.js'
import { BLOCK } from '../helpers/stamped-disk.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

/** An overlay with data in both layers, served. */
async function layered(): Promise<Lab & { base: string; top: string }> {
  const made = await lab()
  const { client, scratch } = made
  const [base, top] = [scratch.file('base.qcow2'), scratch.file('top.qcow2')]
  const qemu = (...args: readonly string[]) => spawnSync(args[0] ?? '', args.slice(1))
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', base, String(SIZE))
  qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 4M', base)
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
  qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 2M 4M', top)
  const file = { driver: 'file', filename: top }
  await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'src', file })
  await serve(client, 'src')
  return { ...made, base, top }
}

for (const sync of ['full', 'top', 'none'])
  t.test(`with sync ${sync} a guest sees all layers after it has moved`, { skip }, async (t) => {
    await using made = await layered()
    const { client, scratch, socket, base, top } = made
    const target = scratch.file('copy.qcow2')
    await mirror(client, target, { sync, format: 'qcow2', 'node-name': 'tgt' })
    const guest = await GuestClient.connect(socket, 'disk')
    await guest.write(8 * MiB, Buffer.alloc(BLOCK, 3))
    await guest.zero(3 * MiB, 64 * 1024)
    await client.event('BLOCK_JOB_READY')
    await guest.write(MiB, Buffer.alloc(BLOCK, 4))
    t.equal(await complete(client), undefined)
    t.equal(await servedNode(client), 'tgt')
    const sees = async () => {
      const at = [0, MiB, 2 * MiB, 3 * MiB, 8 * MiB, 9 * MiB]
      return await Promise.all(at.map(async (offset) => (await guest.read(offset, BLOCK))[0]))
    }
    t.same(await sees(), [1, 4, 2, 0, 3, 0])
    await guest.zero(0, 64 * 1024)
    await guest.write(2 * MiB, Buffer.alloc(BLOCK, 5))
    t.same(await sees(), [0, 4, 5, 0, 3, 0])
    const removal = client.execute('blockdev-del', { 'node-name': 'src' })
    if (sync === 'none')
      await t.rejects(removal, { message: "Node 'src' is busy: node is used as backing hd of 'tgt'" })
    else await removal
    t.same(await sees(), [0, 4, 5, 0, 3, 0])
    guest.end()
    await unserve(client)
    if (sync === 'none') await client.execute('blockdev-del', { 'node-name': 'src' })
    t.same([...(await nodes(client)).keys()], [])
    for (const image of [base, top, target]) check(t, image)
    const { stdout } = spawnSync('qemu-img', ['info', '--output=json', target], { encoding: 'utf8' })
    const below = { full: undefined, top: base, none: top }[sync]
    t.equal(JSON.parse(stdout)['full-backing-filename'], below)
  })

t.test('sync none without a guest leaves an image that reads as the source', { skip }, async (t) => {
  await using made = await layered()
  const { client, scratch, top } = made
  await unserve(client)
  const target = scratch.file('copy.qcow2')
  await mirror(client, target, { sync: 'none', format: 'qcow2', 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['src']), ['src'])
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.match(compare(top, 'qcow2', target, 'qcow2'), /identical/)
})

t.test('sync none into an overlay that names a source in use is refused', { skip }, async (t) => {
  await using made = await layered()
  const { client, scratch, socket, top } = made
  const target = scratch.file('copy.qcow2')
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', top, '-F', 'qcow2', target])
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(MiB, Buffer.alloc(BLOCK, 4))
  const how = { sync: 'none', format: 'qcow2', mode: 'existing' }
  await t.rejects(mirror(client, target, how), { message: 'Failed to get shared "write" lock' })
  await guest.write(MiB, Buffer.alloc(BLOCK, 5))
  t.equal((await guest.read(MiB, BLOCK))[0], 5)
  t.same(await left(client, ['src']), ['src'])
  guest.end()
})

t.test('with sync none what is replaced shows through the target below a filter', { skip }, async (t) => {
  await using made = await lab()
  const { client, scratch, socket } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('disk', scratch.file('src')))
  await client.execute('blockdev-add', { driver: 'x-inject', 'node-name': 'src', file: 'disk', rules: [] })
  await serve(client, 'src')
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(0, Buffer.alloc(BLOCK, 1))
  const how = { sync: 'none', format: 'qcow2', replaces: 'disk', 'node-name': 'tgt' }
  await mirror(client, scratch.file('copy'), how)
  await guest.write(MiB, Buffer.alloc(BLOCK, 2))
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  t.same([(await guest.read(0, BLOCK))[0], (await guest.read(MiB, BLOCK))[0]], [1, 2])
  await guest.write(0, Buffer.alloc(BLOCK, 3))
  guest.end()
  await unserve(client)
  await t.rejects(client.execute('blockdev-del', { 'node-name': 'disk' }), {
    message: "Node 'disk' is busy: node is used as backing hd of 'tgt'",
  })
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.same(await left(client, ['disk']), ['disk'])
  await client.execute('blockdev-del', { 'node-name': 'disk' })
  t.match(compare(scratch.file('src'), 'raw', scratch.file('copy'), 'qcow2'), /mismatch at offset 0/)
  check(t, scratch.file('copy'))
})

t.test('sync none to a new raw file is refused: it cannot lie above the source', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await t.rejects(mirror(client, scratch.file('copy'), { sync: 'none' }), {
    message: "Backing file not supported for file format 'raw'",
  })
  t.notOk(existsSync(scratch.file('copy')))
})
