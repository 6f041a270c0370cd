// SPDX-License-Identifier: Apache-2.0
// NBD URIs in the place of image names: info, map, compare, mirror and convert on servers of others.

import { spawnSync } from 'node:child_process'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { RunningServer, servers } from '../../helpers/nbd/servers.js'
import { installed } from '../../helpers/program.js'
import { difference, empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { run } from './run.js'

const [kind] = servers
if (kind === undefined) throw new Error('no servers')
const skip = kind.absent || (installed('qemu-img') ? false : 'no qemu-img')

async function served(scratch: Scratch, name: string) {
  const server = await RunningServer.start(kind!, scratch.file(`${name}.sock`), scratch.file(name))
  return { server, uri: `nbd+unix:///disk?socket=${server.socket}` }
}

t.test('info and map of an export say what qemu-img says', { skip }, async (t) => {
  using scratch = new Scratch()
  empty(scratch.file('disk'), 8 * MiB)
  const bytes = Buffer.alloc(3 * MiB)
  bytes.fill(5, MiB, 2 * MiB)
  writeFileSync(scratch.file('disk'), bytes)
  truncateSync(scratch.file('disk'), 8 * MiB)
  const { server, uri } = await served(scratch, 'disk')
  await using _server = server
  const ours = await run(['info', uri])
  t.match(ours, { status: 0, stdout: /^image: nbd\+unix:.*\nfile format: raw\nvirtual size: 8 MiB / })
  const map = await run(['map', uri])
  t.equal(map.stdout, spawnSync('qemu-img', ['map', '-f', 'raw', uri], { encoding: 'utf8' }).stdout)
})

t.test('mirror and convert go to an export and back, and from one to the other', { skip }, async (t) => {
  using scratch = new Scratch()
  fill(scratch.file('source'), 5 * MiB)
  truncateSync(scratch.file('source'), 8 * MiB)
  fill(scratch.file('one'), 8 * MiB, 77)
  fill(scratch.file('two'), 9 * MiB, 78)
  const [one, two] = [await served(scratch, 'one'), await served(scratch, 'two')]
  await using _one = one.server
  await using _two = two.server
  t.match(await run(['mirror', scratch.file('source'), one.uri]), { status: 0 })
  t.equal(difference(scratch.file('source'), scratch.file('one')), undefined)
  t.match(await run(['convert', one.uri, two.uri]), { status: 0, stderr: '' })
  const start = readFileSync(scratch.file('two')).subarray(0, 8 * MiB)
  t.equal(Buffer.compare(start, readFileSync(scratch.file('source'))), 0)
  t.same([...readFileSync(scratch.file('two')).subarray(-2)], [87, 87], 'what lies behind is left alone')
  t.match(await run(['convert', '-O', 'qcow2', one.uri, scratch.file('image')]), { status: 0 })
  t.match(await run(['compare', one.uri, scratch.file('image')]), { status: 0, stdout: /identical/ })
})

t.test('options name an export as its URI does', { skip }, async (t) => {
  using scratch = new Scratch()
  fill(scratch.file('disk'), 3 * MiB)
  truncateSync(scratch.file('disk'), 4 * MiB)
  const { server } = await served(scratch, 'disk')
  await using _server = server
  const place = { 'server.type': 'unix', 'server.path': server.socket, export: 'disk' }
  const name = `json:${JSON.stringify({ driver: 'nbd', ...place })}`
  t.match(await run(['convert', '-q', name, scratch.file('copy')]), { status: 0, stderr: '' })
  t.match(await run(['compare', name, scratch.file('copy')]), { status: 0, stdout: /identical/ })
  t.equal(difference(scratch.file('disk'), scratch.file('copy')), undefined)
  const options = `driver=nbd,server.type=unix,server.path=${server.socket},export=disk`
  t.match(await run(['convert', '-q', '--image-opts', options, scratch.file('other')]), { status: 0 })
  t.equal(difference(scratch.file('disk'), scratch.file('other')), undefined)
  fill(scratch.file('new'), 4 * MiB, 7)
  t.match(await run(['convert', '-q', '-n', '-f', 'raw', scratch.file('new'), name]), {
    status: 0,
    stderr: '',
  })
  t.equal(difference(scratch.file('new'), scratch.file('disk')), undefined)
})

t.test('what cannot be is refused with one line', { skip }, async (t) => {
  using scratch = new Scratch()
  empty(scratch.file('disk'), MiB)
  fill(scratch.file('larger'), 2 * MiB)
  const { server, uri } = await served(scratch, 'disk')
  await using _server = server
  const cases: [string[], RegExp][] = [
    [['mirror', scratch.file('larger'), uri], /is too small: 1048576 bytes/],
    [['mirror', uri, uri], /is the same export/],
    [['info', uri.replace('/disk', '/other')], /Requested export not available/],
    [['info', 'nbd+unix:///disk'], /query "socket" with a path is missing/],
  ]
  for (const [args, text] of cases) {
    const { status, stderr } = await run(args)
    t.not(status, 0)
    t.match(stderr, text)
  }
})
