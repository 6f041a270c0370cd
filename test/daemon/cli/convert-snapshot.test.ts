// SPDX-License-Identifier: Apache-2.0
// `blockferry convert -l`: internal snapshots that qemu-img made, read by blockferry, with qemu-img as judge.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

function tool(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
  return stdout
}

function write(image: string, ...commands: string[]): void {
  tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image)
}

/** Snapshot 1 'first' of 4 MiB, snapshot 2 '1' of 8 MiB, a disk of 6 MiB; an overlay with a bitmap that came later. */
function images(t: Test): { folder: string; image: string; overlay: string } {
  const folder = t.testdir({})
  const image = join(folder, 'a.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '4M')
  write(image, 'write -P 1 0 1M', 'write -c -P 4 2M 64k')
  tool('qemu-img', 'snapshot', '-c', 'first', image)
  tool('qemu-img', 'resize', '-q', image, '8M')
  write(image, 'write -P 2 512k 1M', 'write -z 2M 64k', 'write -P 3 7M 1M')
  tool('qemu-img', 'snapshot', '-c', '1', image)
  tool('qemu-img', 'resize', '-q', '--shrink', image, '6M')
  write(image, 'discard 0 6M')
  const overlay = join(folder, 'overlay.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', image, '-F', 'qcow2', overlay)
  write(overlay, 'write -P 5 1M 64k')
  tool('qemu-img', 'snapshot', '-c', 'above', overlay)
  write(overlay, 'write -P 6 1M 128k')
  tool('qemu-img', 'bitmap', '--add', overlay, 'b')
  return { folder, image, overlay }
}

const ones = ['0 512k 1']
const snapshots = [
  { given: 'first', size: 4 * MiB, holds: [...ones, '512k 512k 1', '1M 1M 0', '2M 64k 4', '2112k 1984k 0'] },
  { given: 'snapshot.id=1', size: 4 * MiB, holds: [...ones, '512k 512k 1'] },
  { given: 'snapshot.name=first', size: 4 * MiB, holds: [...ones, '512k 512k 1'] },
  // An id goes before a name.
  { given: '1', size: 4 * MiB, holds: [...ones, '512k 512k 1'] },
  { given: 'snapshot.name=1', size: 8 * MiB, holds: [...ones, '512k 1M 2', '1536k 5632k 0', '7M 1M 3'] },
  { given: '2', size: 8 * MiB, holds: [...ones, '512k 1M 2', '7M 1M 3'] },
]

for (const { given, size, holds } of snapshots)
  for (const format of ['raw', 'qcow2'])
    t.test(`convert -l ${given} -O ${format}`, { skip }, async (t) => {
      const { folder, image } = images(t)
      const before = readFileSync(image)
      const target = join(folder, 'target')
      const result = await run(['convert', '-q', '-l', given, '-O', format, image, target])
      t.same(result, { status: 0, stdout: '', stderr: '' })
      const shown = JSON.parse(tool('qemu-img', 'info', '-f', format, '--output=json', target))
      t.equal(shown['virtual-size'], size)
      for (const range of holds) {
        const [offset = '', length = '', pattern = ''] = range.split(' ')
        const read = tool(
          'qemu-io',
          '-r',
          '-f',
          format,
          '-c',
          `read -P ${pattern} ${offset} ${length}`,
          target,
        )
        t.notMatch(read, /verification failed/, range)
      }
      t.ok(readFileSync(image).equals(before), 'the source is not touched')
    })

t.test('what a snapshot does not hold shows through from below', { skip }, async (t) => {
  const { folder, overlay } = images(t)
  const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')]
  t.same(await run(['convert', '-q', '-l', 'above', overlay, ours]), { status: 0, stdout: '', stderr: '' })
  tool('qemu-img', 'convert', '-l', 'above', '-O', 'raw', overlay, theirs)
  t.match(tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', ours, theirs), /identical/)
  t.equal(statSync(ours).size, 6 * MiB)
})

t.test('options of a node with a snapshot', { skip }, async (t) => {
  const { folder, image } = images(t)
  const target = join(folder, 'target')
  const options = `driver=qcow2,file.filename=${image}`
  t.equal((await run(['convert', '-q', '-l', '2', '--image-opts', options, target])).status, 0)
  t.equal(statSync(target).size, 8 * MiB)
})

const refusals = [
  { given: 'third', status: 1, text: /^blockferry: '.*a\.qcow2': Can't find snapshot 'third'\n$/ },
  { given: 'snapshot.id=first', status: 1, text: /Can't find snapshot 'first'/ },
  { given: 'snapshot.name=2', status: 1, text: /Can't find snapshot '2'/ },
  { given: 'snapshot.tag=1', status: 2, text: /-l expects snapshot\.id=ID.*found 'snapshot\.tag=1'/ },
  { given: 'snapshot.id=1,x=2', status: 2, text: /found 'snapshot\.id=1,x=2'/ },
  { given: '', status: 2, text: /-l needs the id or name of a snapshot, but it is empty/ },
]

for (const { given, status, text } of refusals)
  t.test(`refused, and nothing is made: convert -l '${given}'`, { skip }, async (t) => {
    const { folder, image } = images(t)
    const target = join(folder, 'target')
    const refused = await run(['convert', '-l', given, image, target])
    t.equal(refused.status, status)
    t.match(refused.stderr, text)
    t.notOk(existsSync(target))
  })

t.test('a raw image has no snapshots', async (t) => {
  const folder = t.testdir({ 'a.img': 'x'.repeat(512) })
  const refused = await run(['convert', '-l', 'first', join(folder, 'a.img'), join(folder, 'target')])
  t.equal(refused.status, 1)
  t.match(refused.stderr, /^blockferry: '.*a\.img': images of format 'raw' have no internal snapshots\n$/)
  t.notOk(existsSync(join(folder, 'target')))
})
