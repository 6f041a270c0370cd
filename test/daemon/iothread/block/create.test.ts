// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { FileCreateSpec } from '../../../../daemon/iothread/messages.js'
import { testGraph } from '../../../helpers/graph.js'

const MiB = 1 << 20
const spec = (filename: string, more: Partial<FileCreateSpec> = {}): FileCreateSpec => ({
  kind: 'create',
  driver: 'file',
  filename,
  size: MiB,
  preallocation: 'off',
  ...more,
})

t.test('a new file has the size and no storage; preallocation gives it storage', async (t) => {
  const g = testGraph(t)
  const dir = t.testdir({})
  for (const preallocation of ['off', 'falloc', 'full'] as const) {
    const file = path.join(dir, preallocation)
    await g.graph.createFile(spec(file, { preallocation }), [])
    const { size, blocks } = statSync(file)
    t.equal(size, MiB)
    t.equal(blocks * 512 >= MiB, preallocation !== 'off', preallocation)
  }
})

t.test('an existing file is emptied', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.img')
  writeFileSync(file, Buffer.alloc(2 * MiB, 1))
  await g.graph.createFile(spec(file), [])
  t.ok(readFileSync(file).equals(Buffer.alloc(MiB)))
})

t.test('a missing directory is told with the name', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'none', 'a.img')
  await t.rejects(g.graph.createFile(spec(file), []), {
    message: `Could not create '${file}': No such file or directory`,
  })
})

t.test('a file in use, or on the list of files to be left alone, is not touched', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.img')
  writeFileSync(file, Buffer.alloc(4096, 1))
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file })
  const message = 'Failed to get "resize" lock'
  await t.rejects(g.graph.createFile(spec(file), [g.reports.get('f')?.identity ?? '']), { message })
  const claim = await g.graph.claim('a job', node, { use: ['consistent read'], share: ['write'] })
  await t.rejects(g.graph.createFile(spec(file), []), { message })
  t.ok(readFileSync(file).equals(Buffer.alloc(4096, 1)))
  await claim.release()
})

t.test('a new file that cannot get its size is removed again', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.img')
  await t.rejects(g.graph.createFile(spec(file, { size: 2 ** 52 }), []), {
    message: 'Could not resize file: File too large',
  })
  t.notOk(existsSync(file))
})
