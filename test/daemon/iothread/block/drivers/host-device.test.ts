// SPDX-License-Identifier: Apache-2.0
// host_device over a loop device; needs root.
import { spawnSync } from 'node:child_process'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { testGraph } from '../../../../helpers/graph.js'

const MiB = 1 << 20
const setup = spawnSync('losetup', ['-f'], { encoding: 'utf8' })
const skip = process.getuid?.() === 0 && setup.status === 0 ? false : 'needs root and loop devices'

/** A loop device of 8 MiB that is gone when the test ends. */
function loop(t: Test): { device: string; file: string } | undefined {
  const file = path.join(t.testdir({}), 'backing.img')
  writeFileSync(file, '')
  truncateSync(file, 8 * MiB)
  const { status, stdout } = spawnSync('losetup', ['-f', '--show', file], { encoding: 'utf8' })
  if (status !== 0) return undefined
  const device = stdout.trim()
  t.teardown(() => spawnSync('losetup', ['-d', device]))
  return { device, file }
}

for (const direct of [false, true]) {
  t.test(`a block device is written, zeroed and read back, direct ${direct}`, { skip }, async (t) => {
    const g = testGraph(t)
    const made = loop(t)
    if (made === undefined) {
      t.pass('written and read back', { skip: 'no loop device can be set up' })
      return
    }
    const node = await g.add({
      driver: 'host_device',
      'node-name': 'd',
      filename: made.device,
      discard: 'unmap',
      cache: { direct },
    })
    t.equal(node.length(), 8 * MiB)
    t.match(await node.status(0, MiB), { kind: 'data', length: MiB })
    await g.write(node, 1000, new Uint8Array(10_000).fill(9))
    await node.zero(5000, 2000, { unmap: true, fast: false })
    await node.zero(4 * MiB, MiB, { unmap: true, fast: false })
    await node.flush()
    const bytes = await g.read(node, 0, 16_384)
    const model = new Uint8Array(16_384).fill(9, 1000, 11_000).fill(0, 5000, 7000)
    t.ok(Buffer.compare(bytes, model) === 0)
    t.ok(Buffer.compare(readFileSync(made.file).subarray(0, 16_384), model) === 0)
    await t.rejects(g.graph.resize('d', 16 * MiB), { message: 'Cannot grow device files' })
  })
}

t.test('a device is no regular file, a character device has no size', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'host_device', 'node-name': 'n', filename: '/dev/null' })
  t.equal(node.length(), 0)
})
