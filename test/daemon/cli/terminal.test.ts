// SPDX-License-Identifier: Apache-2.0
// What a terminal shows and other outputs do not: the bar, and the shell's prompt, completion and history. A terminal
// comes from script(1).

import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { shortFolder } from '../../helpers/short-folder.js'
import { command, run } from './run.js'
import { event, type Script, ScriptedServer } from './scripted-server.js'

const hasScript = spawnSync('script', ['--version']).status === 0
const skip = hasScript ? false : 'script(1) of util-linux is not installed'

interface Typing {
  /** When this has been shown … */
  readonly after: string
  /** … this is typed. */
  readonly type: string
}

/** Runs the command on a terminal of 100 columns. @returns what it showed, and its status */
async function onTerminal(args: readonly string[], typing: readonly Typing[] = [], env = {}) {
  const line = `stty cols 100; exec ${[process.execPath, command, ...args].map((word) => `'${word}'`).join(' ')}`
  const child = spawn('script', ['-qec', line, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm', ...env },
  })
  let shown = ''
  let seen = 0
  const waiting = [...typing]
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    shown += text
    for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
      const at = shown.indexOf(next.after, seen)
      if (at < 0) return
      seen = at + next.after.length
      child.stdin.write(next.type)
      waiting.shift()
    }
  })
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { status, shown }
}

/** A mirror that ends as soon as it was asked for progress while it ran. */
function mirrorScript(onProgress: (end: () => void) => void): Script {
  let id = ''
  return (request, say) => {
    const args = request.arguments as { 'job-id'?: string } | undefined
    const answer = (value: unknown) => say({ return: value, id: request.id })
    const end = () => {
      say(
        event('BLOCK_JOB_COMPLETED', { device: id, type: 'mirror', len: 1048576, offset: 1048576, speed: 0 }),
      )
      say(event('JOB_STATUS_CHANGE', { id, status: 'concluded' }))
    }
    if (request.execute === 'drive-mirror') id = args?.['job-id'] ?? ''
    if (request.execute === 'query-jobs') answer([])
    else if (request.execute === 'query-block-jobs' && id !== '') {
      const numbers = { len: 1048576, offset: 524288, 'x-rate': 1048576, 'x-eta': 1 }
      answer([{ device: id, status: 'running', 'x-phase': 'bulk', ...numbers }])
      onProgress(end)
    } else answer({})
  }
}

async function setUp(t: Test, script: Script) {
  const socket = join(shortFolder(t), 's')
  const server = await ScriptedServer.listen(socket, script)
  t.teardown(() => server.close())
  return socket
}

t.test('a terminal shows a bar with phase, bytes, rate and ETA', { skip }, async (t) => {
  const socket = await setUp(
    t,
    mirrorScript((end) => setImmediate(end)),
  )
  const folder = t.testdir({ a: 'x' })
  const paths = [join(folder, 'a'), join(folder, 'b')]
  const { status, shown } = await onTerminal(['mirror', ...paths, '--socket', socket])
  t.equal(status, 0)
  t.match(shown, /bulk +\[=+-+\] 50\.0% {2}512 KiB of 1\.00 MiB {2}1\.00 MiB\/s {2}ETA 1 s/)
  t.match(shown, 'mirrored ')
})

t.test('without a terminal there is no bar and no control character', async (t) => {
  const socket = await setUp(
    t,
    mirrorScript((end) => setImmediate(end)),
  )
  const folder = t.testdir({ a: 'x' })
  const { status, stdout, stderr } = await run([
    'mirror',
    join(folder, 'a'),
    join(folder, 'b'),
    '--socket',
    socket,
  ])
  t.equal(status, 0)
  t.equal(stderr, '')
  t.match(stdout, /^mirrored [ -~]*\n$/)
})

t.test('--no-progress is quiet on a terminal', { skip }, async (t) => {
  const socket = await setUp(
    t,
    mirrorScript((end) => setImmediate(end)),
  )
  const folder = t.testdir({ a: 'x' })
  const paths = [join(folder, 'a'), join(folder, 'b')]
  const { shown } = await onTerminal(['mirror', ...paths, '--socket', socket, '--no-progress'])
  t.match(shown, /^mirrored [ -~]*\r\n$/)
})

const schema = [
  { name: 'query-jobs', 'meta-type': 'command', 'arg-type': '0' },
  { name: 'quit', 'meta-type': 'command', 'arg-type': '0' },
  { name: '0', 'meta-type': 'object', members: [] },
]

t.test('the shell completes from the schema and keeps its history', { skip }, async (t) => {
  const requests: unknown[] = []
  const socket = await setUp(t, (request, say) => {
    requests.push(request.execute)
    say({ return: request.execute === 'query-qmp-schema' ? schema : [], id: request.id })
  })
  const state = t.testdir({})
  const typing = [
    { after: 'blockferry> ', type: 'que\t' },
    { after: 'query-jobs ', type: '\r' },
    { after: 'blockferry> ', type: 'exit\r' },
  ]
  const { status } = await onTerminal(['qmp', '--socket', socket], typing, { XDG_STATE_HOME: state })
  t.equal(status, 0)
  t.same(requests, ['query-qmp-schema', 'query-jobs'])
  t.equal(readFileSync(join(state, 'blockferry', 'history'), 'utf8'), 'exit\nquery-jobs \n')
})

t.test(
  '^C in the shell forgets what is half typed, and ends the shell with nothing typed',
  { skip },
  async (t) => {
    const requests: unknown[] = []
    const socket = await setUp(t, (request, say) => {
      requests.push(request.execute)
      say({ return: request.execute === 'query-qmp-schema' ? schema : [], id: request.id })
    })
    const typing = [
      { after: 'blockferry> ', type: 'quit' },
      { after: 'quit', type: '\x03' },
      { after: 'blockferry> ', type: 'query-jobs\r' },
      { after: '[]', type: '' },
      { after: 'blockferry> ', type: '\x03' },
    ]
    const { status } = await onTerminal(['qmp', '--socket', socket], typing, {
      XDG_STATE_HOME: t.testdir({}),
    })
    t.equal(status, 0)
    t.same(requests, ['query-qmp-schema', 'query-jobs'])
  },
)
