// SPDX-License-Identifier: Apache-2.0
// Channels of multifd that go wrong while the others wait for them: the transfer ends, and says what it was.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { concat } from '../../../protocol/migration/bytes.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt, dial, listening, send, traces } from './attempt.js'
import { channelOf, headOf, PAGE, syncPart, tailBytes } from './synthetic.js'
import { fileSink, spec } from './worker.js'

const blocks = [{ name: 'pc.ram', usedLength: 16 * PAGE }]
const pages = [{ offset: 0, data: new Uint8Array(PAGE).fill(1) }]

function places(t: Test) {
  const folder = t.testdir()
  return { folder, target: join(folder, 'vm.mem'), path: join(shortFolder(t), 'in.sock') }
}

t.test('a damaged packet ends a transfer whose main connection is silent', async (t) => {
  const { folder, target, path } = places(t)
  const said = await attempt(spec(listening(path, 1), fileSink(target, 'mapped-ram')), async () => {
    // As a QEMU that waits until its channel is read: nothing follows on either.
    const main = await dial(path)
    main.write(headOf(blocks, true))
    const channel = await dial(path)
    channel.write(concat([channelOf(0, 'pc.ram', pages).subarray(0, -1344), new Uint8Array(1344)]))
  })
  t.match(said, /a packet with magic 0x0 .*in\.sock/)
  t.same(traces(folder, target), [])
})

t.test('a sync point that the main connection never comes to ends the transfer', async (t) => {
  const { folder, target, path } = places(t)
  const said = await attempt(spec(listening(path, 1), fileSink(target, 'mapped-ram')), async () => {
    const main = send(path, concat([headOf(blocks, true), syncPart(), tailBytes()]))
    const extra = channelOf(0, 'pc.ram', []).subarray(64)
    await Promise.all([main, send(path, concat([channelOf(0, 'pc.ram', pages), extra]))])
  })
  t.match(said, /in\.sock: a multifd channel has a sync point more than the main connection/)
  t.same(traces(folder, target), [])
})
