// SPDX-License-Identifier: Apache-2.0
// `blockferry jobs`, `job` and `qmp` against a daemon that follows a script.

import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { toText } from '../../../protocol/json-text.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { type RunOptions, run } from './run.js'
import { event, type Script, ScriptedServer } from './scripted-server.js'

const blockJob = {
  device: 'm0',
  type: 'mirror',
  len: 4294967296,
  offset: 1288490188,
  'io-status': 'ok',
  status: 'running',
  'x-phase': 'bulk',
  'x-rate': 891289600,
  'x-eta': 3,
  'x-oldest-request': { operation: 'read', node: 'src', 'age-ms': 12000 },
}
const jobs = [
  {
    id: 'c0',
    type: 'create',
    status: 'concluded',
    'current-progress': 1,
    'total-progress': 1,
    error: 'No space',
  },
  {
    id: 'm0',
    type: 'mirror',
    status: 'running',
    'current-progress': 1288490188,
    'total-progress': 4294967296,
  },
]

const twoJobs: Script = (request, say) => {
  const answers: Record<string, unknown> = { 'query-jobs': jobs, 'query-block-jobs': [blockJob] }
  say({ return: answers[String(request.execute)] ?? {}, id: request.id })
}

async function setUp(t: Test, script: Script) {
  const socket = join(shortFolder(t), 's')
  const server = await ScriptedServer.listen(socket, script)
  t.teardown(() => server.close())
  const blockferry = (args: readonly string[], how: RunOptions = {}) =>
    run(args, { ...how, env: { BLOCKFERRY_SOCKET: socket, ...how.env } })
  const sent = () =>
    server.requests
      .filter((request) => request.execute !== 'qmp_capabilities')
      .map(({ execute, arguments: args }) => ({ execute, arguments: args }))
  return { server, socket, blockferry, sent }
}

t.test('jobs are a table, with what they wait for and why they failed', async (t) => {
  const { blockferry } = await setUp(t, twoJobs)
  t.same(await blockferry(['jobs']), {
    status: 0,
    stderr: '',
    stdout: [
      'ID  TYPE    STATUS     PHASE      DONE        OF      %       RATE  ETA  NOTE',
      'c0  create  concluded  -             1         1      -          -    -  No space',
      'm0  mirror  running    bulk   1.20 GiB  4.00 GiB  29.9%  850 MiB/s  3 s  read waits 12.0 s',
      '',
    ].join('\n'),
  })
})

t.test('a request that was just sent is no note', async (t) => {
  const fresh = { ...blockJob, 'x-oldest-request': { operation: 'read', node: 'src', 'age-ms': 20 } }
  const { blockferry } = await setUp(t, (request, say) => {
    const answers: Record<string, unknown> = { 'query-jobs': jobs, 'query-block-jobs': [fresh] }
    say({ return: answers[String(request.execute)] ?? {}, id: request.id })
  })
  t.notMatch((await blockferry(['jobs'])).stdout, 'waits')
})

t.test('jobs --json is one list with what both queries know', async (t) => {
  const { blockferry } = await setUp(t, twoJobs)
  const { stdout } = await blockferry(['jobs', '--json'])
  t.same(JSON.parse(stdout), [jobs[0], { ...blockJob, ...jobs[1] }])
})

t.test('jobs --watch looks again after an event, and ends with the daemon', async (t) => {
  let looks = 0
  const { blockferry, server, socket } = await setUp(t, (request, say) => {
    if (request.execute === 'query-jobs' && ++looks === 2) {
      server.hangUp()
      return
    }
    say({ return: [], id: request.id })
    if (request.execute === 'query-block-jobs') say(event('JOB_STATUS_CHANGE', { id: 'x', status: 'null' }))
  })
  t.same(await blockferry(['jobs', '--watch']), {
    status: 1,
    stdout: 'no jobs\n',
    stderr: `blockferry: the daemon at '${socket}' is gone: the daemon closed the connection\n`,
  })
})

t.test('^C ends jobs --watch', async (t) => {
  let child: ChildProcess | undefined
  const { blockferry } = await setUp(t, (request, say) => {
    say({ return: [], id: request.id })
    if (request.execute === 'query-block-jobs') child?.kill('SIGINT')
  })
  const onStart = (started: ChildProcess) => {
    child = started
  }
  t.equal((await blockferry(['jobs', '--watch'], { onStart })).status, 130)
})

t.test('every verb sends its command', async (t) => {
  const { blockferry, sent } = await setUp(t, (request, say) => say({ return: {}, id: request.id }))
  const table: [string, object][] = [
    ['pause m0', { execute: 'job-pause', arguments: { id: 'm0' } }],
    ['resume m0', { execute: 'job-resume', arguments: { id: 'm0' } }],
    ['cancel m0', { execute: 'job-cancel', arguments: { id: 'm0' } }],
    ['cancel m0 --soft', { execute: 'block-job-cancel', arguments: { device: 'm0' } }],
    ['complete m0', { execute: 'job-complete', arguments: { id: 'm0' } }],
    ['finalize m0', { execute: 'job-finalize', arguments: { id: 'm0' } }],
    ['dismiss m0', { execute: 'job-dismiss', arguments: { id: 'm0' } }],
    ['set-speed m0 1M', { execute: 'block-job-set-speed', arguments: { device: 'm0', speed: 1048576 } }],
  ]
  for (const [line] of table) {
    t.same(await blockferry(['job', ...line.split(' ')]), { status: 0, stdout: '', stderr: '' }, line)
  }
  t.same(
    sent(),
    table.map(([, request]) => request),
  )
})

const refuses: Script = (request, say) =>
  say({ error: { class: 'GenericError', desc: 'Job not found' }, id: request.id })

t.test('a refused verb names the job', async (t) => {
  const { blockferry } = await setUp(t, refuses)
  t.same(await blockferry(['job', 'pause', 'm9']), {
    status: 1,
    stdout: '',
    stderr: "blockferry: job 'm9': Job not found\n",
  })
})

t.test('qmp sends one command and prints what it returned, digits and all', async (t) => {
  const { blockferry, sent } = await setUp(t, (request, say) =>
    say({ return: { n: 18446744073709551615n }, id: request.id }),
  )
  t.same(await blockferry(['qmp', 'x', 'a.b=1']), {
    status: 0,
    stdout: '{"n": 18446744073709551615}\n',
    stderr: '',
  })
  t.same(sent(), [{ execute: 'x', arguments: { a: { b: 1 } } }])
})

t.test('qmp tells class and text of a refusal', async (t) => {
  const { blockferry } = await setUp(t, refuses)
  t.same(await blockferry(['qmp', 'job-pause', '{"id": "m9"}']), {
    status: 1,
    stdout: '',
    stderr: 'blockferry: job-pause: GenericError: Job not found\n',
  })
})

const shellScript: Script = (request, say) => {
  if (request.execute === 'bad') refuses(request, say)
  else say({ return: request.execute === 'query-qmp-schema' ? [] : { was: request.execute }, id: request.id })
}

t.test('lines from a pipe are carried out in order, and one that fails fails the whole', async (t) => {
  const { blockferry } = await setUp(t, shellScript)
  t.same(await blockferry(['qmp'], { input: "first\n\n# remark\nbad\n{'execute': 'third'}\nx y\n" }), {
    status: 1,
    stdout: `${toText({ was: 'first' })}\n${toText({ was: 'third' })}\n`,
    stderr: [
      'blockferry: bad: GenericError: Job not found',
      "blockferry: expected a JSON object or key=value, found 'y'",
      'blockferry: 2 of the commands failed',
      '',
    ].join('\n'),
  })
})

t.test('the shell ends when the daemon does', async (t) => {
  const { blockferry, server, socket } = await setUp(t, (request, say) => {
    if (request.execute === 'quit') server.hangUp()
    else shellScript(request, say)
  })
  t.same(await blockferry(['qmp'], { input: 'first\nquit\nnever\n' }), {
    status: 1,
    stdout: '{"was": "first"}\n',
    stderr: `blockferry: the daemon at '${socket}' is gone: the daemon closed the connection\n`,
  })
})
