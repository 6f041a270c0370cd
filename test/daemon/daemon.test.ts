// SPDX-License-Identifier: Apache-2.0
// blockferryd as a process: start, ways in, signals, end.

import { spawn } from 'node:child_process'
import { existsSync, linkSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ControlClient } from '../helpers/control-client.js'
import {
  appears,
  type DaemonProcess,
  PROGRAM,
  runDaemon,
  type SpawnOptions,
  startDaemon,
} from '../helpers/daemon-process.js'
import { shortFolder } from '../helpers/short-folder.js'

interface Running extends DaemonProcess {
  readonly folder: string
  readonly socket: string
  readonly pidfile: string
}

/** A daemon that is ready on one socket, with a pid file. */
async function running(t: Test, args: readonly string[] = [], options: SpawnOptions = {}): Promise<Running> {
  const folder = shortFolder(t, { 'config.json': '{"log-level":"warn"}' })
  const socket = `${folder}/s`
  const pidfile = `${folder}/pid`
  const all = ['--socket', socket, '--pidfile', pidfile, ...args]
  const daemon = startDaemon(
    all.map((arg) => arg.replace('$DIR', folder)),
    options,
  )
  t.teardown(() => daemon.child.kill('SIGKILL'))
  const failed = daemon.ended.then(({ stderr }) => Promise.reject(new Error(`did not start: ${stderr}`)))
  await Promise.race([appears(pidfile), failed])
  // From here on its end is what the tests themselves wait for.
  failed.catch(() => undefined)
  return { ...daemon, folder, socket, pidfile }
}

function firstConnection(server: Server): Promise<Socket> {
  return new Promise((resolve) => server.once('connection', resolve))
}

function firstLine(socket: Socket): Promise<string> {
  return new Promise((resolve) => socket.once('data', (bytes) => resolve(bytes.toString())))
}

t.test('the pid file holds the number of the process and is there when clients are answered', async (t) => {
  const { child, socket, pidfile } = await running(t)
  t.equal(readFileSync(pidfile, 'utf8'), `${child.pid}\n`)
  const client = await ControlClient.ready(socket)
  t.match(await client.call('query-version'), { return: {} })
  client.close()
})

t.test('quit answers, removes socket and pid file and exits with 0', async (t) => {
  const { ended, socket, pidfile } = await running(t)
  const client = await ControlClient.ready(socket)
  t.same(await client.call('quit'), { return: {} })
  t.equal(await client.line(), undefined)
  t.match(await ended, { status: 0, stderr: '' })
  t.notOk(existsSync(socket))
  t.notOk(existsSync(pidfile))
})

for (const shared of [false, true])
  t.test(
    `a folder of private sockets ${shared ? 'stays while others use it' : 'goes with them'}`,
    async (t) => {
      const folder = join(shortFolder(t), 'p')
      mkdirSync(folder)
      const { child, ended } = await running(t, ['--socket', `${folder}/s`, '--remove-folder', folder])
      if (shared) writeFileSync(`${folder}/other`, '')
      child.kill('SIGTERM')
      t.match(await ended, { status: 0, stderr: '' })
      t.equal(existsSync(folder), shared)
      t.notOk(existsSync(`${folder}/s`))
    },
  )

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} ends the daemon in order`, async (t) => {
    const { child, ended, socket, pidfile } = await running(t)
    child.kill(signal)
    t.match(await ended, { status: 0 })
    t.notOk(existsSync(socket))
    t.notOk(existsSync(pidfile))
  })
}

t.test('SIGUSR1 opens no inspector', async (t) => {
  const { child, ended, socket } = await running(t)
  child.kill('SIGUSR1')
  const client = await ControlClient.ready(socket)
  await client.call('quit')
  t.equal((await ended).stderr, '')
})

t.test('SIGHUP takes the log level from the configuration file again', async (t) => {
  const { child, ended, folder, socket } = await running(t, ['--config', '$DIR/config.json'])
  writeFileSync(`${folder}/config.json`, '{"log-level":"info"}')
  child.kill('SIGHUP')
  await new Promise<void>((resolve) => {
    child.stderr?.on('data', (bytes: Buffer) => {
      if (bytes.includes('log level read again')) resolve()
    })
  })
  const client = await ControlClient.ready(socket)
  await client.call('quit')
  t.match((await ended).stderr, /client connected/)
})

t.test('a second daemon is refused the pid file and the socket of the first', async (t) => {
  const { socket, pidfile, folder } = await running(t)
  t.match(await runDaemon(['--pidfile', pidfile, '--socket', `${folder}/other`]), {
    status: 1,
    stderr: 'blockferryd: cannot create PID file: Cannot lock pid file: Resource temporarily unavailable\n',
  })
  t.notOk(existsSync(`${folder}/other`))
  t.match(await runDaemon(['--socket', socket]), { status: 1, stderr: /somebody listens/ })
  const client = await ControlClient.ready(socket)
  t.match(await client.call('query-version'), { return: {} })
  client.close()
})

t.test('an unknown option is one line on standard error and status 2', async (t) => {
  t.match(await runDaemon(['--zork']), { status: 2, stderr: "blockferryd: unknown option '--zork'\n" })
})

t.test('a daemon that nobody could steer does not start', async (t) => {
  t.match(await runDaemon([]), { status: 2, stderr: /give --socket PATH/ })
})

t.test('a broken configuration file is one line and status 78', async (t) => {
  const folder = shortFolder(t, { 'c.json': '{"zork":1}' })
  const { status, stderr } = await runDaemon(['--config', `${folder}/c.json`])
  t.equal(status, 78)
  t.equal(stderr, `blockferryd: ${folder}/c.json: unknown option 'zork'\n`)
})

t.test('errors of the reference spelling name option and value, status 1', async (t) => {
  t.match(await runDaemon(['--chardev', 'foo,id=c']), {
    status: 1,
    stderr: "blockferryd: --chardev foo,id=c: 'foo' is not a valid char driver name\n",
  })
  t.match(await runDaemon(['--monitor', 'chardev=x']), {
    status: 1,
    stderr: 'blockferryd: --monitor chardev=x: chardev "x" not found\n',
  })
  t.match(await runDaemon(['--chardev', 'socket,id=c,fd=99']), {
    status: 1,
    stderr: "blockferryd: --chardev socket,id=c,fd=99: File descriptor '99' is not a socket\n",
  })
  t.match(await runDaemon(['--blockdev', 'driver=file,node-name=n,filename=/nonexistent']), {
    status: 1,
    stderr:
      "blockferryd: --blockdev driver=file,node-name=n,filename=/nonexistent: Could not open '/nonexistent': No such file or directory\n",
  })
})

t.test('standard input and output serve as a monitor, and its end does not end the daemon', async (t) => {
  const daemon = startDaemon(['--chardev', 'stdio,id=c', '--monitor', 'c'], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  t.teardown(() => daemon.child.kill('SIGKILL'))
  daemon.child.stdin?.end('{"execute":"qmp_capabilities"}\n{"execute":"query-version","id":1}\n')
  await new Promise<void>((resolve) => {
    let text = ''
    daemon.child.stdout?.on('data', (bytes: Buffer) => {
      text += bytes.toString()
      if (text.includes('"id": 1')) resolve()
    })
  })
  t.equal(daemon.child.exitCode, null)
  daemon.child.kill('SIGTERM')
  t.equal((await daemon.ended).status, 0)
})

t.test('the daemon connects to a test that listens', async (t) => {
  const path = `${shortFolder(t)}/s`
  const server = createServer().listen(path)
  t.teardown(() => server.close())
  const connection = firstConnection(server)
  const daemon = startDaemon(['--chardev', `socket,id=c,path=${path}`, '--monitor', 'c'])
  t.teardown(() => daemon.child.kill('SIGKILL'))
  const socket = await connection
  t.match(await firstLine(socket), /^\{"QMP"/)
  socket.write('{"execute":"qmp_capabilities"}{"execute":"quit"}')
  socket.resume()
  t.equal((await daemon.ended).status, 0)
})

t.test('an inherited connected descriptor serves as a monitor', async (t) => {
  const daemon = startDaemon(['--chardev', 'socket,id=c,fd=3', '--monitor', 'c'], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
  t.teardown(() => daemon.child.kill('SIGKILL'))
  const socket = daemon.child.stdio[3] as Socket
  t.match(await firstLine(socket), /^\{"QMP"/)
  socket.write('{"execute":"qmp_capabilities"}{"execute":"quit"}')
  socket.resume()
  t.equal((await daemon.ended).status, 0)
})

t.test('nodes and objects of the command line are there for the first client', async (t) => {
  const { socket } = await running(t, [
    '--object',
    'throttle-group,id=t,limits.bps-total=1048576',
    '--blockdev',
    'null-co,node-name=n,size=1048576',
    '--blockdev',
    '{"driver": "throttle", "node-name": "slow", "file": "n", "throttle-group": "t"}',
  ])
  const client = await ControlClient.ready(socket)
  const { return: nodes } = (await client.call('query-named-block-nodes')) as {
    return: { 'node-name': string }[]
  }
  t.same(nodes.map((node) => node['node-name']).sort(), ['n', 'slow'])
  client.close()
})

t.test('a TCP chardev serves network clients and tells its port', async (t) => {
  const { socket } = await running(t, [
    '--chardev',
    'socket,id=net,host=127.0.0.1,port=0,server=on,wait=off',
    '--monitor',
    'net',
  ])
  const local = await ControlClient.ready(socket)
  const { return: chardevs } = (await local.call('query-chardev')) as {
    return: { label: string; filename: string }[]
  }
  const filename = chardevs.find(({ label }) => label === 'net')?.filename ?? ''
  const port = /^disconnected:tcp:127\.0\.0\.1:(\d+),server=on$/.exec(filename)?.[1]
  const remote = await ControlClient.open({ host: '127.0.0.1', port: Number(port) })
  t.match(await remote.next(), { QMP: {} })
  remote.close()
  local.close()
})

t.test('a listening socket of the service manager is served', async (t) => {
  const folder = shortFolder(t)
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(`${folder}/made`, resolve))
  linkSync(`${folder}/made`, `${folder}/s`)
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  // The number of the process is known only inside it.
  const child = spawn('sh', ['-c', 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"', process.execPath, PROGRAM], {
    stdio: ['ignore', 'ignore', 'ignore', fd],
  })
  t.teardown(() => child.kill('SIGKILL'))
  // Only the child accepts from now on; this also removes the first name.
  server.close()
  const ended = new Promise((resolve) => child.on('exit', resolve))
  const client = await ControlClient.ready(`${folder}/s`)
  await client.call('quit')
  t.equal(await ended, 0)
  t.ok(existsSync(`${folder}/s`), 'its file is not ours to remove')
})

t.test('a server chardev that waits is ready when its first client came', async (t) => {
  const folder = shortFolder(t)
  const daemon = startDaemon([
    '--chardev',
    `socket,id=c,path=${folder}/s,server=on`,
    '--monitor',
    'c',
    '--pidfile',
    `${folder}/pid`,
  ])
  t.teardown(() => daemon.child.kill('SIGKILL'))
  await appears(`${folder}/s`)
  t.notOk(existsSync(`${folder}/pid`))
  const client = await ControlClient.ready(`${folder}/s`)
  t.ok(existsSync(`${folder}/pid`))
  t.match(await client.call('query-chardev'), {
    return: [{ label: 'c', filename: `unix:${folder}/s,server=on`, 'frontend-open': true }],
  })
  client.close()
})

t.test('--daemonize returns when the daemon is ready', async (t) => {
  const folder = shortFolder(t)
  const args = ['--daemonize', '--socket', `${folder}/s`, '--pidfile', `${folder}/pid`]
  t.match(await runDaemon(args), { status: 0, stdout: '', stderr: '' })
  const client = await ControlClient.ready(`${folder}/s`)
  t.not(Number(readFileSync(`${folder}/pid`, 'utf8')), process.pid)
  await client.call('quit')
  t.equal(await client.line(), undefined)
})

t.test('--daemonize stays in its folder, holds nothing of its caller, and lives without a log', async (t) => {
  const folder = shortFolder(t)
  const args = [
    '--daemonize',
    '--log-level',
    'trace',
    '--socket',
    `${folder}/s`,
    '--pidfile',
    `${folder}/pid`,
  ]
  t.match(await runDaemon(args), { status: 0, stdout: '' })
  const own = `/proc/${readFileSync(`${folder}/pid`, 'utf8').trim()}`
  t.equal(readlinkSync(`${own}/cwd`), process.cwd())
  for (const stream of [0, 1]) t.equal(readlinkSync(`${own}/fd/${stream}`), '/dev/null')
  for (let round = 0; round < 3; round++) {
    const client = await ControlClient.ready(`${folder}/s`)
    t.match(await client.call('query-version'), { return: {} })
    client.close()
  }
  const client = await ControlClient.ready(`${folder}/s`)
  await client.call('quit')
  t.equal(await client.line(), undefined)
})

t.test('--daemonize passes on errors of the start and their status', async (t) => {
  const folder = shortFolder(t, { s: 'a file' })
  t.match(await runDaemon(['--daemonize', '--socket', `${folder}/s`]), {
    status: 1,
    stderr: /is not a socket/,
  })
})

t.test('nobody reads standard error and clients are answered all the same', async (t) => {
  const { child, socket } = await running(t, ['--log-level', 'trace'])
  child.stderr?.pause()
  for (let round = 0; round < 1500; round++) {
    const client = await ControlClient.open(socket)
    await client.next()
    client.close()
  }
  const client = await ControlClient.ready(socket)
  t.match(await client.call('query-version'), { return: {} })
  client.close()
})
