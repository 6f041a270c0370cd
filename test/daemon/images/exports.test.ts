// SPDX-License-Identifier: Apache-2.0
// Nodes that are served over HTTP by command, and tickets on NBD servers: any image, through the same requests.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { RunningServer, servers } from '../../helpers/nbd/servers.js'
import { installed } from '../../helpers/program.js'
import { empty, fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

/** Runs commands one after the other. @returns their replies and the events between them */
async function qmp(...commands: readonly object[]): Promise<readonly Record<string, unknown>[]> {
  const socket = connect({ path: scratch.file('qmp') })
  await once(socket, 'connect')
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
  const next = async () => JSON.parse((await lines.next()).value as string)
  await next()
  const replies: Record<string, unknown>[] = []
  for (const command of [{ execute: 'qmp_capabilities' }, ...commands]) {
    socket.write(JSON.stringify(command))
    for (;;) {
      const reply = await next()
      replies.push(reply)
      if (!('event' in reply)) break
    }
  }
  socket.destroy()
  return replies.slice(1)
}

const add = (more: object = {}) => ({
  execute: 'block-export-add',
  arguments: { type: 'x-images', id: '0f', 'node-name': 'q', writable: true, ...more },
})

t.test(
  'a qcow2 image is served by command',
  { skip: installed('qemu-img') ? false : 'no qemu-img' },
  async (t) => {
    fill(scratch.file('base'), MiB)
    const make = [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      'base',
      '-F',
      'raw',
      scratch.file('q'),
      String(2 * MiB),
    ]
    t.equal(spawnSync('qemu-img', make).status, 0)
    const node = {
      execute: 'blockdev-add',
      arguments: {
        driver: 'qcow2',
        'node-name': 'q',
        discard: 'unmap',
        file: { driver: 'file', filename: scratch.file('q') },
      },
    }
    t.strictSame(await qmp(node, add()), [{ return: {} }, { return: {} }])
    t.match(
      await qmp(add({ id: '0f' }), add({ id: 'w', writethrough: true }), add({ 'node-name': 'x', id: 'y' })),
      [
        { error: { desc: "Block export id '0f' is already in use" } },
        { error: { desc: /writethrough/ } },
        { error: { desc: "Cannot find device='' nor node-name='x'" } },
      ],
    )
    t.match(await qmp({ execute: 'query-block-exports' }), [
      { return: [{ id: '0f', type: 'x-images', 'node-name': 'q', 'shutting-down': false }] },
    ])
    t.strictSame(JSON.parse((await daemon.images('GET', '0f/extents')).text), [
      { start: 0, length: MiB, zero: false, hole: true },
      { start: MiB, length: MiB, zero: true, hole: true },
    ])
    const range = { 'content-range': 'bytes 100000-*/*' }
    t.equal((await daemon.images('PUT', '0f', range, Buffer.alloc(1000, 3))).status, 200)
    t.equal((await daemon.images('PATCH', '0f', {}, '{"op":"zero","size":65536,"flush":true}')).status, 200)
    const model = Buffer.alloc(2 * MiB)
    readFileSync(scratch.file('base')).copy(model)
    model.fill(3, 100000, 101000).fill(0, 0, 65536)
    t.equal(Buffer.compare((await daemon.images('GET', '0f')).bytes, model), 0)
    t.equal((await daemon.images('PUT', '0f', { 'content-range': `bytes ${2 * MiB}-*/*` }, 'x')).status, 416)
    t.equal((await daemon.tickets('GET', '0f')).status, 404, 'it is no ticket of the service')
    // A client that has closed its connection is gone a moment later.
    for (let clients = 1; clients > 0; ) {
      const [{ return: list }] = (await qmp({ execute: 'query-block-exports' })) as [
        { return: { 'x-clients': number }[] },
      ]
      clients = list[0]?.['x-clients'] ?? 0
    }
    const removed = await qmp({ execute: 'block-export-del', arguments: { id: '0f' } })
    t.match(removed, [{ event: 'BLOCK_EXPORT_DELETED', data: { id: '0f' } }, { return: {} }])
    t.equal((await daemon.images('OPTIONS', '0f')).status, 403)
    t.strictSame(await qmp({ execute: 'blockdev-del', arguments: { 'node-name': 'q' } }), [{ return: {} }])
  },
)

t.test('a read-only export is only read', async (t) => {
  fill(scratch.file('r'), MiB)
  const node = {
    execute: 'blockdev-add',
    arguments: { driver: 'raw', 'node-name': 'r', file: { driver: 'file', filename: scratch.file('r') } },
  }
  t.strictSame(await qmp(node, add({ id: 'r0', 'node-name': 'r', writable: false })), [
    { return: {} },
    { return: {} },
  ])
  t.equal((await daemon.images('PUT', 'r0', {}, 'x')).status, 403)
  t.equal(Buffer.compare((await daemon.images('GET', 'r0')).bytes, readFileSync(scratch.file('r'))), 0)
})

const [kind] = servers
t.test('a ticket on an NBD server', { skip: kind?.absent ?? 'no servers' }, async (t) => {
  empty(scratch.file('served'), 2 * MiB)
  await using server = await RunningServer.start(kind!, scratch.file('nbd'), scratch.file('served'))
  const url = `nbd:unix:${server.socket}:exportname=disk`
  await daemon.ticket('nbd', '', 2 * MiB, { url })
  const range = { 'content-range': 'bytes 5000-*/*' }
  t.equal((await daemon.images('PUT', 'nbd', range, Buffer.alloc(MiB, 9))).status, 200)
  const { bytes } = await daemon.images('GET', 'nbd')
  t.equal(
    Buffer.compare(
      bytes,
      Buffer.concat([Buffer.alloc(5000), Buffer.alloc(MiB, 9), Buffer.alloc(MiB - 5000)]),
    ),
    0,
  )
  t.equal((await daemon.images('PATCH', 'nbd', {}, `{"op":"zero","size":${MiB}}`)).status, 200)
  t.ok((await daemon.images('GET', 'nbd/extents')).bytes.length > 2)
  t.equal((await daemon.tickets('DELETE', 'nbd')).status, 204)
})
