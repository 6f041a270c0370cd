// SPDX-License-Identifier: Apache-2.0
// map of qcow2 images whose clusters lie in any order, alone and above others, is what qemu-img shows: every place is told.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

function tool(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** Clusters of 64 KiB, written in this order. */
function written(image: string, clusters: readonly number[]): void {
  const commands = clusters.map((cluster) => ['-c', `write -P ${cluster + 1} ${cluster * 64}k 64k`])
  tool('qemu-io', '-f', 'qcow2', ...commands.flat(), image)
}

const shuffled = [5, 1, 0, 9, 8, 10, 2, 3]
const makes = [
  {
    name: 'one image in any order',
    make: (folder: string) => {
      const image = join(folder, 'a.qcow2')
      tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M')
      written(image, shuffled)
      return image
    },
  },
  {
    name: 'zero clusters between',
    make: (folder: string) => {
      const image = join(folder, 'z.qcow2')
      tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M')
      written(image, shuffled)
      tool('qemu-io', '-f', 'qcow2', '-c', 'write -z 64k 64k', '-c', 'write -zu 512k 64k', image)
      return image
    },
  },
  {
    name: 'a layer above a shuffled one',
    make: (folder: string) => {
      const [base, top] = [join(folder, 'base.qcow2'), join(folder, 'top.qcow2')]
      tool('qemu-img', 'create', '-q', '-f', 'qcow2', base, '1M')
      written(base, shuffled)
      tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
      written(top, [4, 2, 15])
      return top
    },
  },
]

/** Data, zeroes and holes in a preallocated image of 9 MiB. */
function preallocated(folder: string, options: string): string {
  const image = join(folder, 'p.qcow2')
  const file = options.replace('$', join(folder, 'data'))
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', file, image, '9M')
  const commands = ['write -P 1 3M 128k', 'write -z 5M 64k', 'write -P 2 6M 4k', 'write -zu 8M 64k']
  tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image)
  return image
}

const preallocations = ['off', 'metadata', 'falloc', 'full'].flatMap((preallocation) =>
  ['64k', '2M'].flatMap((cluster) =>
    ['', ',data_file=$', ',data_file=$,data_file_raw=on'].map(
      (file) => `preallocation=${preallocation},cluster_size=${cluster}${file}`,
    ),
  ),
)
for (const options of [...preallocations, 'preallocation=metadata,cluster_size=4k,refcount_bits=1'])
  makes.push({ name: options, make: (folder: string) => preallocated(folder, options) })
makes.push({
  name: 'a layer above a preallocated one',
  make: (folder: string) => {
    const base = preallocated(folder, 'preallocation=metadata')
    const top = join(folder, 'top.qcow2')
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
    written(top, [4, 2, 15])
    return top
  },
})

for (const { name, make } of makes)
  t.test(`map as qemu-img shows it: ${name}`, { skip }, async (t) => {
    const image = make(t.testdir({}))
    const text = await run(['map', '-f', 'qcow2', image])
    t.same(text, { status: 0, stdout: tool('qemu-img', 'map', '-f', 'qcow2', image), stderr: '' })
    const extents = (json: string) =>
      (JSON.parse(json) as Record<string, unknown>[]).map(({ compressed: _, ...extent }) => extent)
    t.same(
      extents((await run(['map', '-f', 'qcow2', '--output=json', image])).stdout),
      extents(tool('qemu-img', 'map', '-f', 'qcow2', '--output=json', image)),
    )
  })

/** As qemu-img 10 prints it. */
const printed = `[{ "start": 0, "length": 131072, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 327680},
{ "start": 131072, "length": 131072, "depth": 0, "present": false, "zero": true, "data": false, "compressed": false},
{ "start": 262144, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, "compressed": true},
{ "start": 327680, "length": 196608, "depth": 0, "present": false, "zero": true, "data": false, "compressed": false},
{ "start": 524288, "length": 65536, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false},
{ "start": 589824, "length": 458752, "depth": 0, "present": false, "zero": true, "data": false, "compressed": false}]
`

t.test('both shapes of the output, byte for byte', { skip }, async (t) => {
  const image = join(t.testdir({}), 'a.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M')
  const commands = ['write -P 1 0 128k', 'write -c -P 1 256k 64k', 'write -z 512k 64k']
  tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image)
  for (const how of [['--output=json'], ['--json'], ['--json', '--output', 'json']])
    t.same(await run(['map', ...how, image]), { status: 0, stdout: printed, stderr: '' })
  const theirs = spawnSync('qemu-img', ['map', '--output=human', image], { encoding: 'utf8' })
  t.same(await run(['map', '--output=human', image]), {
    status: 1,
    stdout: theirs.stdout,
    stderr: theirs.stderr.replace('qemu-img', 'blockferry'),
  })
})

t.test(
  'an image that another program writes is only looked at when it is said to be shared',
  { skip },
  async (t) => {
    const image = join(t.testdir({}), 'a.qcow2')
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M')
    const writer = spawn('qemu-io', ['-f', 'qcow2', image], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(writer, 'exit')
    t.teardown(() => writer.kill())
    writer.stdin.write('write 0 64k\n')
    await once(writer.stdout, 'data')
    for (const words of [['info'], ['map']]) {
      const refused = await run([...words, image])
      t.equal(refused.status, 1)
      t.match(
        refused.stderr,
        /^blockferry: Failed to get shared "write" lock\. Is another process using the image/,
      )
      t.equal((await run([...words, '-U', image])).status, 0)
    }
    writer.stdin.end()
    await ended
    t.match((await run(['map', '-f', 'qcow2', image])).stdout, /^0 +0x10000 /m)
  },
)
