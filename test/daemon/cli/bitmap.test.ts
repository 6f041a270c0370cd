// SPDX-License-Identifier: Apache-2.0
// `blockferry bitmap` against images that qemu-img made, and qemu-img against what it left.

import { join } from 'node:path'
import t from 'tap'
import { PERMISSIONS } from '../../../daemon/iothread/block/driver.js'
import { mustQemuImg, oracle, qemuIo } from '../../helpers/check-image.js'
import { testGraph } from '../../helpers/graph.js'
import { openImage } from '../../helpers/opened-image.js'
import { installed } from '../../helpers/program.js'
import { storedBitmaps } from '../../helpers/stored-bitmaps.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

t.test('bitmaps of an image are added, changed, merged, listed and removed', { skip }, async (t) => {
  const image = join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', image, '16M')
  const done = async (...args: string[]) => {
    const { status, stdout, stderr } = await run(['bitmap', ...args])
    t.same([status, stderr], [0, ''], args.join(' '))
    return stdout
  }
  await done('add', image, 'a', 'b', '-g', '4k')
  await done('add', image, 'off', '--disabled')
  qemuIo(image, 'write 1M 8k')
  await done('disable', image, 'b')
  qemuIo(image, 'write 2M 4k')
  await done('merge', image, 'off', 'a')
  t.same((await done('list', image)).split('\n'), [
    'NAME  GRANULARITY   DIRTY  STATE',
    'a            4096   12288  recording',
    'b            4096    8192  disabled',
    'off         65536  131072  disabled',
    '',
  ])
  t.match(JSON.parse(await done('list', image, '--json')), [{ name: 'a', count: 12288, persistent: true }])
  await done('clear', image, 'a', 'b')
  await done('enable', image, 'b')
  t.match(storedBitmaps(image), { a: { bits: [] }, b: { bits: [], auto: true }, off: { bits: [16, 32] } })
  mustQemuImg('bitmap', '--merge', 'off', image, 'a')
  await done('remove', image, 'a', 'b', 'off')
  t.same(storedBitmaps(image), {})
  t.match(oracle(image), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('what cannot be done is told in a line', { skip }, async (t) => {
  const folder = t.testdir({ 'a.img': 'x'.repeat(512) })
  const [image, raw] = [join(folder, 'disk.qcow2'), join(folder, 'a.img')]
  mustQemuImg('create', '-q', '-f', 'qcow2', image, '16M')
  const unstored = `Can't store persistent bitmaps to '${raw}': Operation not supported`
  const cases: readonly [readonly string[], number, string][] = [
    [['clear', image, 'zz'], 1, `cannot clear bitmap 'zz' of '${image}': Dirty bitmap 'zz' not found`],
    [
      ['add', image, 'b', '-g', '1000'],
      1,
      `cannot add bitmap 'b' to '${image}': Granularity must be power of 2 and at least 512`,
    ],
    [['add', raw, 'b'], 1, `cannot add bitmap 'b' to '${raw}': ${unstored}`],
    [
      ['merge', image, 'a', 'b', 'c', '-b', raw],
      1,
      `cannot merge 'b', 'c' of '${raw}' into bitmap 'a' of '${image}': Dirty bitmap 'b' not found`,
    ],
    [['burn', image], 2, "unknown verb 'burn'"],
    [['burn', '-f', 'qcow2', image], 2, "unknown verb 'burn'"],
    [['--burn', image, 'b'], 2, "unknown option '--burn'"],
    [['--add', image, 'b'], 2, "unknown option '--add'; 'add' is a verb: see bitmap add --help"],
    [
      ['-f', 'qcow2', '--merge', 'a', image, 'b'],
      2,
      "unknown option '--merge'; 'merge' is a verb: see bitmap merge --help",
    ],
    [['add', image], 2, "missing required argument 'name'"],
  ]
  for (const [args, status, text] of cases) {
    const result = await run(['bitmap', ...args])
    t.equal(result.status, status, args.join(' '))
    t.equal(result.stderr, `blockferry: ${text}\n`)
  }
})

t.test('an image that another program writes is refused', { skip }, async (t) => {
  const image = join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', image, '16M')
  mustQemuImg('bitmap', '--add', image, 'b')
  const g = testGraph(t)
  const node = await openImage(g, image)
  await g.graph.claim('a guest', node, { use: ['consistent read', 'write'], share: PERMISSIONS })
  for (const verb of ['list', 'clear', 'remove']) {
    const { status, stdout, stderr } = await run(['bitmap', verb, image, ...(verb === 'list' ? [] : ['b'])])
    t.same([status, stdout], [1, ''], verb)
    t.match(stderr, /Is another process using the image/)
  }
  const shared = await run(['bitmap', 'list', '-U', image])
  t.match(shared.stdout, /^b /m)
})
