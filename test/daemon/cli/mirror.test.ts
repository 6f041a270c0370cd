// SPDX-License-Identifier: Apache-2.0
// `blockferry mirror` against a daemon that follows a script: what is asked in which order, and what every kind of
// ending says. The real daemon is used in mirror-live.test.ts.

import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { isJsonObject, type JsonObject } from '../../../protocol/json-value.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { type RunOptions, run } from './run.js'
import { event, type Script, ScriptedServer } from './scripted-server.js'

type Say = (value: unknown) => void

const size = 1048576
const receipt = {
  'bytes-copied': 524288,
  'bytes-zeroed': 262144,
  'bytes-skipped': 262144,
  flush: 'ok',
  durations: { bulk: 5 },
}

/** A job that runs until the test says what comes. */
class ScriptedJob {
  id = ''
  say: Say = () => undefined
  error: string | undefined
  #view: object | undefined

  status(status: string): void {
    this.say(event('JOB_STATUS_CHANGE', { status, id: this.id }))
    this.#view = { device: this.id, type: 'mirror', status, len: size, offset: size / 2, 'io-status': 'ok' }
  }

  end(name: 'BLOCK_JOB_COMPLETED' | 'BLOCK_JOB_CANCELLED', error?: string): void {
    this.error = error
    this.say(event(name, { device: this.id, type: 'mirror', len: size, offset: size, speed: 0, error }))
    this.status('concluded')
  }

  script(onStart: () => void, onCancel: () => void = () => undefined): Script {
    return (request, say) => {
      const args = isJsonObject(request.arguments) ? request.arguments : undefined
      const answer = (value: unknown) => say({ return: value, id: request.id })
      switch (request.execute) {
        case 'drive-mirror':
        case 'blockdev-mirror':
          this.id = String(args?.['job-id'])
          this.say = say
          this.status('created')
          this.status('running')
          answer({})
          onStart()
          return
        case 'job-cancel':
          answer({})
          onCancel()
          return
        case 'query-block-jobs':
          answer(this.#view === undefined ? [] : [this.#view])
          return
        case 'query-jobs':
          answer([
            { id: this.id, status: 'concluded', type: 'mirror', error: this.error, 'x-receipt': receipt },
          ])
          return
        default:
          answer({})
      }
    }
  }
}

async function setUp(t: Test, script: Script) {
  const folder = t.testdir({ 'src.img': 'x'.repeat(4096) })
  const socket = join(shortFolder(t), 's')
  const server = await ScriptedServer.listen(socket, script)
  t.teardown(() => server.close())
  const [source, target] = [join(folder, 'src.img'), join(folder, 'dst.img')]
  const mirror = (options: readonly string[] = [], how: RunOptions = {}) =>
    run(['mirror', source, target, '--socket', socket, ...options], how)
  /** Commands that change something, in the order they came. */
  const commands = () =>
    server.requests
      .map((request) => String(request.execute))
      .filter((name) => !name.startsWith('query-') && name !== 'qmp_capabilities')
  return { server, socket, source, target, mirror, commands }
}

t.test('a copy that completes says what was done and ends with 0', async (t) => {
  const job = new ScriptedJob()
  const script = job.script(() => job.end('BLOCK_JOB_COMPLETED'))
  const { mirror, commands, source, target } = await setUp(t, script)
  const { status, stdout, stderr } = await mirror()
  t.equal(stderr, '')
  t.equal(status, 0)
  t.match(stdout, `mirrored '${source}' to '${target}': 512 KiB copied, 256 KiB zeroed, 256 KiB skipped in `)
  t.match(stdout, /\), flushed\n$/)
  t.same(commands(), ['blockdev-add', 'drive-mirror', 'job-dismiss', 'blockdev-del', 'blockdev-del'])
})

t.test('the source is opened read-only, and options become arguments', async (t) => {
  const job = new ScriptedJob()
  const { mirror, server, source, target } = await setUp(
    t,
    job.script(() => job.end('BLOCK_JOB_COMPLETED')),
  )
  const options = '--speed 100M --granularity 64k --buf-size 4M --no-unmap --on-target-error stop --job-id j7'
  await mirror([...options.split(' '), '--target-is-zero', '--no-direct'])
  const argumentsOf = (name: string) => server.requests.find((one) => one.execute === name)?.arguments
  t.match(argumentsOf('blockdev-add'), {
    driver: 'raw',
    'read-only': true,
    file: { driver: 'file', filename: source, 'read-only': true, cache: { direct: false } },
  })
  t.match(argumentsOf('drive-mirror'), {
    'job-id': 'j7',
    target,
    sync: 'full',
    format: 'raw',
    mode: 'absolute-paths',
    speed: 104857600,
    granularity: 65536,
    'buf-size': 4194304,
    unmap: false,
    'on-source-error': 'report',
    'on-target-error': 'stop',
    'target-is-zero': true,
    'x-auto-complete': true,
  })
})

t.test('--json prints every event of the job and the result last', async (t) => {
  const job = new ScriptedJob()
  const { mirror, source, target } = await setUp(
    t,
    job.script(() => job.end('BLOCK_JOB_COMPLETED')),
  )
  const { status, stdout } = await mirror(['--json'])
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.equal(status, 0)
  t.same(
    lines.slice(0, -1).map((line) => line.data.status ?? line.event),
    ['created', 'running', 'BLOCK_JOB_COMPLETED', 'concluded'],
  )
  t.match(lines.at(-1), { result: 'completed', source, target, receipt })
})

t.test('a copy that fails names the reason and the state of the target', async (t) => {
  const job = new ScriptedJob()
  const script = job.script(() => job.end('BLOCK_JOB_COMPLETED', 'Input/output error'))
  const { mirror, source, target } = await setUp(t, script)
  t.same(await mirror(), {
    status: 1,
    stdout: '',
    stderr: `blockferry: mirror of '${source}' failed: Input/output error; '${target}' is incomplete: 512 KiB of 1.00 MiB were done\n`,
  })
})

t.test('a daemon that goes away in the middle is an error', async (t) => {
  const { mirror, server, socket, target } = await setUp(t, (request, say) => {
    if (request.execute === 'drive-mirror') server.hangUp()
    else say({ return: {}, id: request.id })
  })
  t.same(await mirror(), {
    status: 1,
    stdout: '',
    stderr: `blockferry: the daemon at '${socket}' is gone: the daemon closed the connection; '${target}' is incomplete\n`,
  })
})

t.test('a copy that an error policy pauses tells how to go on', async (t) => {
  const job = new ScriptedJob()
  const script = job.script(() => {
    job.say(event('BLOCK_JOB_ERROR', { device: job.id, operation: 'write', action: 'stop' }))
    job.status('paused')
  })
  const { mirror, server, socket, target } = await setUp(t, (request, say) => {
    script(request, say)
    // The command has looked at the paused job: now it may end.
    if (request.execute === 'query-block-jobs' && job.id !== '')
      setImmediate(() => job.end('BLOCK_JOB_COMPLETED'))
  })
  const { status, stderr } = await mirror(['--job-id', 'j8'])
  t.equal(status, 0)
  t.match(
    stderr,
    `blockferry: paused by write error on '${target}'; go on with: blockferry job resume j8 --socket ${socket}\n`,
  )
  t.ok(server.requests.length > 0)
})

const refusesDirect: Script = (request, say) => {
  const args = isJsonObject(request.arguments) ? request.arguments : undefined
  const cache = isJsonObject(args?.cache ?? null) ? (args?.cache as JsonObject) : undefined
  if (request.execute === 'blockdev-add' && cache?.direct === true) {
    const desc = "Could not open 'src.img': filesystem does not support O_DIRECT"
    say({ error: { class: 'GenericError', desc }, id: request.id })
  } else say({ return: {}, id: request.id })
}

t.test('a file system without O_DIRECT is used through the page cache', async (t) => {
  const job = new ScriptedJob()
  const follow = job.script(() => job.end('BLOCK_JOB_COMPLETED'))
  const { mirror, server } = await setUp(t, (request, say) =>
    (request.execute === 'blockdev-add' ? refusesDirect : follow)(request, say),
  )
  const { status } = await mirror()
  t.equal(status, 0)
  const adds = server.requests.filter((one) => one.execute === 'blockdev-add')
  t.match(
    adds.map((one) => one.arguments),
    [{ cache: { direct: true } }, { cache: { direct: false } }],
  )
})

t.test('--direct fails where there is no O_DIRECT', async (t) => {
  const { mirror, commands, source } = await setUp(t, refusesDirect)
  t.same(await mirror(['--direct']), {
    status: 1,
    stdout: '',
    stderr: `blockferry: '${source}': Could not open 'src.img': filesystem does not support O_DIRECT\n`,
  })
  t.notOk(commands().includes('drive-mirror'))
})

t.test('^C cancels the job, and says what the target is', async (t) => {
  const job = new ScriptedJob()
  let child: ChildProcess | undefined
  const script = job.script(
    () => child?.kill('SIGINT'),
    () => job.end('BLOCK_JOB_CANCELLED', 'Operation canceled'),
  )
  const { mirror, commands, target } = await setUp(t, script)
  const onStart = (started: ChildProcess) => {
    child = started
  }
  t.same(await mirror([], { onStart }), {
    status: 130,
    stdout: '',
    stderr: `blockferry: mirror cancelled; '${target}' is incomplete: 512 KiB of 1.00 MiB were done\n`,
  })
  t.ok(commands().includes('job-cancel'))
})

t.test('^C before the job is started writes nothing', async (t) => {
  let child: ChildProcess | undefined
  let answer: (() => void) | undefined
  let polls = 0
  const { mirror, commands } = await setUp(t, (request, say) => {
    const done = () => say({ return: {}, id: request.id })
    if (request.execute === 'blockdev-add') {
      answer = done
      child?.kill('SIGINT')
      return
    }
    done()
    // The command asks for progress by a timer; two questions after the signal, it has seen the signal.
    if (request.execute === 'query-block-jobs' && answer !== undefined && ++polls === 2) answer()
  })
  const onStart = (started: ChildProcess) => {
    child = started
  }
  t.same(await mirror([], { onStart }), {
    status: 130,
    stdout: '',
    stderr: 'blockferry: interrupted; nothing was written\n',
  })
  t.same(commands(), ['blockdev-add', 'blockdev-del'])
})

t.test('a job that completes in spite of ^C is a success', async (t) => {
  const job = new ScriptedJob()
  let child: ChildProcess | undefined
  const script = job.script(
    () => child?.kill('SIGINT'),
    () => job.end('BLOCK_JOB_COMPLETED'),
  )
  const { mirror } = await setUp(t, script)
  const onStart = (started: ChildProcess) => {
    child = started
  }
  const { status, stdout, stderr } = await mirror([], { onStart })
  t.equal(status, 0)
  t.match(stdout, /^mirrored /)
  t.equal(stderr, '')
})

t.test('a second ^C leaves at once', async (t) => {
  const job = new ScriptedJob()
  let child: ChildProcess | undefined
  const script = job.script(
    () => child?.kill('SIGINT'),
    () => child?.kill('SIGINT'),
  )
  const { mirror, target } = await setUp(t, script)
  const onStart = (started: ChildProcess) => {
    child = started
  }
  t.same(await mirror([], { onStart }), {
    status: 130,
    stdout: '',
    stderr: `blockferry: left at once; '${target}' is incomplete\n`,
  })
})

t.test('SIGTERM is as ^C, with its own status', async (t) => {
  const job = new ScriptedJob()
  let child: ChildProcess | undefined
  const script = job.script(
    () => child?.kill('SIGTERM'),
    () => job.end('BLOCK_JOB_CANCELLED', 'Operation canceled'),
  )
  const { mirror } = await setUp(t, script)
  const onStart = (started: ChildProcess) => {
    child = started
  }
  t.equal((await mirror([], { onStart })).status, 143)
})
