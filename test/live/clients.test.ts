// SPDX-License-Identifier: Apache-2.0
// Clients that people already have drive a whole mirror: socat, nc, a JSON-RPC library, QEMU's Python client.

import { spawn, spawnSync } from 'node:child_process'
import { connect } from 'node:net'
import { JSONRPCClient, JSONRPCServer, JSONRPCServerAndClient } from 'json-rpc-2.0'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { LineSocket } from '../helpers/line-socket.js'
import { installed } from '../helpers/program.js'
import { difference, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { within } from '../helpers/waiting.js'

const SIZE = 64 * MiB

/** What is typed into `nc -U` in QEMU's bug 1912224, line by line. */
function typed(scratch: Scratch): string[] {
  const mirror = { device: 'drive-virtio-disk0', target: scratch.file('mirror'), sync: 'full', format: 'raw' }
  return [
    { execute: 'qmp_capabilities' },
    { execute: 'blockdev-add', arguments: rawNode('drive-virtio-disk0', scratch.file('disk.img')) },
    { execute: 'drive-mirror', arguments: { 'job-id': 'm', ...mirror } },
  ].map((each) => JSON.stringify(each))
}

const COMPLETE = JSON.stringify({ execute: 'job-complete', arguments: { id: 'm' } })

/** A person at a terminal program: types a line, reads, types the next. */
async function typeMirror(program: string, args: readonly string[], scratch: Scratch): Promise<string> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  let text = ''
  let heard: (() => void)[] = []
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
    for (const wake of heard) wake()
    heard = []
  })
  const until = async (pattern: RegExp): Promise<void> => {
    const search = async (): Promise<void> => {
      while (!pattern.test(text)) await new Promise<void>((resolve) => heard.push(resolve))
    }
    await within(search(), 30_000, String(pattern))
  }
  try {
    await until(/"QMP"/)
    for (const [index, line] of typed(scratch).entries()) {
      child.stdin.write(`${line}\n`)
      await until(new RegExp(`(?:"return".*){${index + 1}}`, 's'))
    }
    await until(/BLOCK_JOB_READY/)
    child.stdin.write(`${COMPLETE}\n`)
    await until(/"null"/)
    return text
  } finally {
    child.kill()
  }
}

for (const [program, args] of [
  ['socat', (socket: string) => ['-', `UNIX-CONNECT:${socket}`]],
  ['nc', (socket: string) => ['-U', socket]],
] as const) {
  const skip = installed(program, '-h') ? false : `no ${program}`
  t.test(`the mirror typed into ${program} runs to its end`, { skip }, async (t) => {
    using scratch = new Scratch()
    fill(scratch.file('disk.img'), SIZE)
    await using daemon = await Daemon.start({ directory: scratch.path })
    const text = await typeMirror(program, args(daemon.socket), scratch)
    t.match(
      text,
      /created.*running.*ready.*BLOCK_JOB_READY.*waiting.*pending.*BLOCK_JOB_COMPLETED.*concluded/s,
    )
    t.equal(difference(scratch.file('disk.img'), scratch.file('mirror')), undefined)
    t.equal(await daemon.stop(), undefined)
  })
}

t.test(
  'requests sent at once through a half-closed pipe are all answered',
  { skip: installed('socat', '-h') ? false : 'no socat' },
  async (t) => {
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const input =
      '{"execute":"qmp_capabilities"}{"execute":"query-jobs","id":1}{"execute":"query-version","id":2}'
    const { stdout } = spawnSync('socat', ['-t', '5', '-', `UNIX-CONNECT:${daemon.socket}`], {
      input,
      encoding: 'utf8',
    })
    t.equal(stdout.trim().split('\n').length, 4)
    t.match(stdout, /"id": ?2/)
  },
)

t.test('a JSON-RPC library drives a mirror and hears every event', async (t) => {
  using scratch = new Scratch()
  fill(scratch.file('disk.img'), SIZE)
  await using daemon = await Daemon.start({ directory: scratch.path })
  const socket = await LineSocket.connect(daemon.socket)
  const rpc = new JSONRPCServerAndClient(
    new JSONRPCServer(),
    new JSONRPCClient((request) => socket.send(`${JSON.stringify(request)}\n`)),
  )
  const statuses: string[] = []
  let wake: () => void = () => undefined
  rpc.addMethod('JOB_STATUS_CHANGE', ({ data }: { data: { status: string } }) => {
    statuses.push(data.status)
    wake()
  })
  /** Woken by the library's own delivery: the socket has the line before the library has told of it. */
  const heard = async (status: string): Promise<void> => {
    const search = async (): Promise<void> => {
      while (!statuses.includes(status)) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
    await within(search(), 30_000, `status ${status}`)
  }
  rpc.addMethod('greeting', () => undefined)
  let taken = 0
  const pump = async (): Promise<void> => {
    while (await socket.until(() => socket.lines.length > taken, 60_000)) {
      await rpc.receiveAndSend(JSON.parse(socket.lines[taken++] ?? ''))
    }
  }
  const pumping = pump()
  await rpc.request('blockdev-add', rawNode('drive-virtio-disk0', scratch.file('disk.img')))
  const target = scratch.file('mirror')
  const mirror = { 'job-id': 'm', device: 'drive-virtio-disk0', target, sync: 'full', format: 'raw' }
  await rpc.request('drive-mirror', mirror)
  await heard('ready')
  await rpc.request('job-complete', { id: 'm' })
  await heard('null')
  t.same(statuses, ['created', 'running', 'ready', 'waiting', 'pending', 'concluded', 'null'])
  t.equal(difference(scratch.file('disk.img'), target), undefined)
  await t.rejects(Promise.resolve(rpc.request('job-complete', { id: 'm' })), { message: 'Job not found' })
  socket.destroy()
  await pumping
})

const source = process.env.QEMU_SRC
t.test(
  'QEMU’s Python client drives a mirror',
  { skip: source === undefined ? 'QEMU_SRC names no QEMU source tree' : false },
  async (t) => {
    using scratch = new Scratch()
    fill(scratch.file('disk.img'), SIZE)
    await using daemon = await Daemon.start({ directory: scratch.path })
    const script = [
      'import asyncio, json, sys',
      'from qemu.qmp import QMPClient',
      'async def main(socket, add, mirror):',
      '    client = QMPClient("test")',
      '    await client.connect(socket)',
      '    await client.execute("blockdev-add", json.loads(add))',
      '    await client.execute("drive-mirror", json.loads(mirror))',
      '    async for event in client.events:',
      '        if event["event"] == "BLOCK_JOB_READY": await client.execute("job-complete", {"id": "m"})',
      '        if event.get("data", {}).get("status") == "null": break',
      '    await client.disconnect()',
      'asyncio.run(main(*sys.argv[1:]))',
    ].join('\n')
    const add = JSON.stringify(rawNode('d', scratch.file('disk.img')))
    const target = scratch.file('mirror')
    const mirror = JSON.stringify({ 'job-id': 'm', device: 'd', target, sync: 'full', format: 'raw' })
    const env = { ...process.env, PYTHONPATH: `${source}/python`, PYTHONDONTWRITEBYTECODE: '1' }
    const child = spawn('python3', ['-c', script, daemon.socket, add, mirror], { stdio: 'inherit', env })
    const status = await within(
      new Promise((resolve) => child.once('exit', resolve)),
      60_000,
      'end of the client',
    )
    t.equal(status, 0)
    t.equal(difference(scratch.file('disk.img'), target), undefined)
  },
)

t.test('a client that vanishes in the middle of a mirror leaves the job running', async (t) => {
  using scratch = new Scratch()
  fill(scratch.file('disk.img'), SIZE)
  await using daemon = await Daemon.start({ directory: scratch.path })
  const socket = connect(daemon.socket)
  socket.write(typed(scratch).join(''))
  await daemon.client.event('JOB_STATUS_CHANGE', ({ status }) => status === 'running')
  socket.destroy()
  await daemon.client.event('BLOCK_JOB_READY')
  await daemon.client.execute('job-complete', { id: 'm' })
  await daemon.client.status('m', 'null')
  t.equal(difference(scratch.file('disk.img'), scratch.file('mirror')), undefined)
})
