// SPDX-License-Identifier: Apache-2.0
// `blockferry ticket`, `upload` and `download` with a daemon that serves images over HTTP.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { difference, empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { run } from './run.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
const control = ['--control', daemon.control]

/** @returns the URL of a new ticket */
async function ticket(file: string, ...more: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(['ticket', 'add', scratch.file(file), ...more, ...control])
  if (stderr !== '') throw new Error(stderr)
  return `${daemon.url}/images/${stdout.trim()}`
}

/** Where a file of the folder has data: blocks counted by the file system include what it keeps for itself. */
function dataOf(file: string): { readonly start: number; readonly length: number }[] {
  const args = ['map', '-f', 'raw', '--output=json', scratch.file(file)]
  const { stdout } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[]
  return extents.filter(({ data }) => data).map(({ start, length }) => ({ start, length }))
}

t.test('a ticket is added, shown, extended and removed', async (t) => {
  empty(scratch.file('disk'), MiB)
  const added = await run([
    'ticket',
    'add',
    scratch.file('disk'),
    '--ops',
    'read,write',
    '--sparse',
    ...control,
  ])
  t.match(added, { status: 0, stdout: /^[0-9a-f-]{36}\n$/, stderr: '' })
  const id = added.stdout.trim()
  const shown = await run(['ticket', 'show', id, ...control])
  t.match(JSON.parse(shown.stdout), {
    ...{
      uuid: id,
      size: MiB,
      ops: ['read', 'write'],
      timeout: 300,
      sparse: true,
      url: `file://${scratch.file('disk')}`,
    },
  })
  t.match(await run(['ticket', 'extend', id, '0', ...control]), { status: 0, stdout: '', stderr: '' })
  t.equal((await fetch(`${daemon.url}/images/${id}`)).status, 403)
  t.match(await run(['ticket', 'rm', id, ...control]), { status: 0, stdout: '', stderr: '' })
  t.match(await run(['ticket', 'show', id, ...control]), {
    status: 1,
    stderr: /refused with 404: there is no such ticket\n$/,
  })
})

t.test('the path in the URL of a file is taken as it stands, as by the reference', async (t) => {
  for (const name of ['a%20b', 'a b', 'a?b#c']) {
    writeFileSync(scratch.file(name), name.padEnd(512))
    for (const prefix of ['', 'file:', 'file://']) {
      const added = await run(['ticket', 'add', `${prefix}${scratch.file(name)}`, ...control])
      t.match(added, { status: 0, stderr: '' })
      const reply = await fetch(`${daemon.url}/images/${added.stdout.trim()}`)
      t.equal((await reply.text()).trim(), name, `${prefix}${name}`)
    }
  }
})

t.test('what is not there is not removed', async (t) => {
  empty(scratch.file('disk'), MiB)
  await ticket('disk', '--id', 'stays')
  const missing = `blockferry: '${daemon.control}' refused with 404: there is no such ticket\n`
  t.same(await run(['ticket', 'rm', 'stay', ...control]), { status: 1, stdout: '', stderr: missing })
  const empties = { status: 2, stderr: 'blockferry: a ticket needs an id, but it is empty\n' }
  t.match(await run(['ticket', 'rm', '', ...control]), empties)
  t.match(await run(['ticket', 'add', scratch.file('disk'), '--id', '', ...control]), empties)
  t.match(await run(['ticket', 'show', 'stays', ...control]), { status: 0 })
})

t.test('an upload and a download give the same disk, and holes stay holes', { skip }, async (t) => {
  fill(scratch.file('source'), 20 * MiB)
  truncateSync(scratch.file('source'), 100 * MiB)
  empty(scratch.file('target'), 100 * MiB)
  fill(scratch.file('target'), 90 * MiB, 77)
  truncateSync(scratch.file('target'), 100 * MiB)
  const up = await run([
    'upload',
    scratch.file('source'),
    await ticket('target', '--ops', 'write', '--sparse'),
  ])
  t.match(up, { status: 0, stderr: '' })
  t.equal(difference(scratch.file('source'), scratch.file('target')), undefined)
  t.strictSame(dataOf('target'), [{ start: 0, length: 20 * MiB }])
  const down = await run(['download', await ticket('target'), scratch.file('copy'), '--connections', '3'])
  t.match(down, { status: 0, stderr: '' })
  t.equal(difference(scratch.file('source'), scratch.file('copy')), undefined)
  t.strictSame(dataOf('copy'), [{ start: 0, length: 20 * MiB }])
  t.notOk(existsSync(scratch.file('copy.part')))
})

t.test('a file that ends inside a sector is sent and fetched as it is', async (t) => {
  fill(scratch.file('odd'), 9 * MiB + 100)
  empty(scratch.file('odd-target'), 9 * MiB + 100)
  t.match(await run(['upload', scratch.file('odd'), await ticket('odd-target', '--ops', 'write')]), {
    status: 0,
    stderr: '',
  })
  t.equal(Buffer.compare(readFileSync(scratch.file('odd')), readFileSync(scratch.file('odd-target'))), 0)
  t.match(await run(['download', await ticket('odd-target'), scratch.file('odd-copy')]), {
    status: 0,
    stderr: '',
  })
  t.equal(Buffer.compare(readFileSync(scratch.file('odd')), readFileSync(scratch.file('odd-copy'))), 0)
})

t.test('what cannot be done is told in one line, and leaves no file', async (t) => {
  fill(scratch.file('small'), MiB)
  const url = await ticket('small')
  const one = /^blockferry: [^\n]+\n$/
  t.match(await run(['upload', scratch.file('small'), url]), { status: 1, stderr: one }, 'a ticket to read')
  t.match(await run(['upload', scratch.file('nothing'), url]), { status: 1, stderr: one }, 'no file')
  t.match(await run(['upload', scratch.file('small'), 'nowhere']), { status: 2, stderr: one }, 'no URL')
  t.match(await run(['download', `${daemon.url}/images/none`, scratch.file('new')]), {
    status: 1,
    stderr: /403: .*no such ticket\n$/,
  })
  t.match(await run(['download', 'http://127.0.0.1:1/images/a', scratch.file('new')]), {
    status: 3,
    stderr: one,
  })
  t.match(await run(['ticket', 'show', 'a', '--control', scratch.file('none')]), { status: 3, stderr: one })
  t.match(await run(['ticket', 'add', scratch.file('small'), '--ops', 'erase', ...control]), {
    status: 1,
    stderr: /"ops"/,
  })
  t.notOk(existsSync(scratch.file('new')))
  t.notOk(existsSync(scratch.file('new.part')))
})

t.test('a ticket for what is no image is refused in words of what it is', async (t) => {
  fill(scratch.file('whole'), MiB)
  const add = (image: string, ...more: string[]) => run(['ticket', 'add', image, ...more, ...control])
  const none = scratch.file('nowhere')
  for (const [image, error] of [
    [none, `cannot open '${none}': No such file or directory`],
    [`file:${none}`, `cannot open 'file:${none}': No such file or directory`],
    ['/dev', "cannot open '/dev' as an image: it is a directory"],
    ['/dev/null', "cannot open '/dev/null' as an image: it is neither a file nor a block device"],
    ['nbd://localhost/x', "the size of 'nbd://localhost/x' is not known: give --size"],
  ] as const) {
    const { status, stderr } = await add(image)
    t.same({ status, stderr }, { status: 1, stderr: `blockferry: ${error}\n` })
  }
  const json = 'json:{"driver":"file","filename":"a"}'
  t.match(await add(json), { status: 2, stderr: `blockferry: expected a path, found options: '${json}'\n` })
  const nobody = ['ticket', 'add', scratch.file('whole'), '--control', none]
  t.match(await run(nobody), {
    status: 3,
    stderr: `blockferry: cannot use '${none}': No such file or directory\n`,
  })
  for (const name of [`file:${scratch.file('whole')}`, `file://${scratch.file('whole')}`])
    t.match(await add(name), { status: 0, stderr: '' })
})

t.test('a file that is there is replaced only when that is asked for', async (t) => {
  fill(scratch.file('image'), MiB)
  writeFileSync(scratch.file('there'), 'precious')
  const url = await ticket('image')
  t.match(await run(['download', url, scratch.file('there')]), { status: 1, stderr: /is there already/ })
  t.equal(readFileSync(scratch.file('there'), 'utf8'), 'precious')
  t.match(await run(['download', url, scratch.file('there'), '--force']), { status: 0, stderr: '' })
  t.equal(difference(scratch.file('image'), scratch.file('there')), undefined)
})

t.test('a server that sends less than it said is no success', async (t) => {
  const server = createServer((request, reply) => {
    if (request.method === 'OPTIONS') reply.end('{"features": ["extents"], "max_readers": 1}')
    else if (request.url?.endsWith('/extents')) reply.end('[{"start": 0, "length": 1048576, "zero": false}]')
    else {
      reply.writeHead(206, { 'content-length': MiB })
      reply.write(Buffer.alloc(1000), () => reply.destroy())
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as import('node:net').AddressInfo
  const got = await run(['download', `http://127.0.0.1:${port}/images/a`, scratch.file('short')])
  t.match(got, { status: 1, stderr: /^blockferry: [^\n]+\n$/ })
  t.notOk(existsSync(scratch.file('short')))
})
