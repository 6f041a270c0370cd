// SPDX-License-Identifier: Apache-2.0
// Checksums of images: the same as the reference image server's for the same bytes, whatever is a hole.

import { spawnSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const skip = installed('python3') ? false : 'no python3'

/** As the reference: digests of blocks, hashed again. */
const ORACLE = `
import hashlib, sys
size = int(sys.argv[2])
whole = hashlib.blake2b(digest_size=32)
with open(sys.argv[1], 'rb') as image:
    while block := image.read(size):
        whole.update(hashlib.blake2b(block, digest_size=32).digest())
print(whole.hexdigest(), end='')
`

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

interface Case {
  readonly name: string
  readonly make: (path: string) => void
  readonly blockSize?: number
}

const cases: readonly Case[] = [
  { name: 'nothing', make: (path) => writeFileSync(path, '') },
  { name: 'one byte', make: (path) => writeFileSync(path, 'a') },
  { name: 'whole blocks', make: (path) => fill(path, 12 * MiB) },
  { name: 'a last block that is shorter', make: (path) => fill(path, 9 * MiB + 12345) },
  { name: 'blocks of another size', make: (path) => fill(path, 7 * MiB), blockSize: MiB + 4096 },
  { name: 'the largest blocks', make: (path) => fill(path, 40 * MiB), blockSize: 16 * MiB },
  {
    name: 'holes',
    make: (path) => {
      fill(path, 6 * MiB)
      truncateSync(path, 41 * MiB + 77)
    },
  },
]

for (const { name, make, blockSize } of cases)
  t.test(`the checksum of ${name} is that of the reference`, { skip }, async (t) => {
    const path = scratch.file('image')
    make(path)
    await daemon.ticket('c', 'image', 100 * MiB, { ops: ['read'] })
    const query = blockSize === undefined ? '' : `?algorithm=blake2b&block_size=${blockSize}`
    const { status, text } = await daemon.images('GET', `c/checksum${query}`)
    await daemon.tickets('DELETE', 'c')
    t.equal(status, 200)
    const size = blockSize ?? 4 * MiB
    const { stdout } = spawnSync('python3', ['-c', ORACLE, path, String(size)], { encoding: 'utf8' })
    t.strictSame(JSON.parse(text), { algorithm: 'blake2b', block_size: size, checksum: stdout })
  })

t.test('what cannot be is refused', async (t) => {
  fill(scratch.file('data'), MiB)
  await daemon.ticket('d', 'data', MiB, { ops: ['read'] })
  for (const query of [
    'algorithm=md5',
    'block_size=4096',
    'block_size=1048577',
    'block_size=33554432',
    'block_size=x',
  ])
    t.equal((await daemon.images('GET', `d/checksum?${query}`)).status, 400, query)
  t.equal((await daemon.images('GET', 'nobody/checksum')).status, 403)
  t.equal((await daemon.images('PUT', 'd/checksum', {}, 'x')).status, 405)
  const { text } = await daemon.images('GET', 'anything/checksum/algorithms')
  t.strictSame(JSON.parse(text), { algorithms: ['blake2b'] })
})

t.test('many checksums at once leave each other memory', { skip }, async (t) => {
  fill(scratch.file('many'), 8 * MiB)
  await daemon.ticket('m', 'many', 8 * MiB, { ops: ['read'] })
  const replies = await Promise.all(Array.from({ length: 40 }, () => daemon.images('GET', 'm/checksum')))
  t.equal(new Set(replies.map(({ text }) => text)).size, 1)
  t.ok(replies.every(({ status }) => status === 200))
})
