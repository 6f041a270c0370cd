// SPDX-License-Identifier: Apache-2.0
// NBD nodes whose connections are encrypted: servers of others and our own, both kinds of credentials, and everything that
// may be wrong with them.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer as createTcpServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { Authority } from '../helpers/nbd/certificates.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, fill, MiB, rawNode } from '../helpers/scratch.js'
import { shortFolder } from '../helpers/short-folder.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(240_000)

const noOpenssl = installed('openssl') ? false : 'no openssl'
const KEY = '00112233445566778899aabbccddeeff'

interface Case {
  readonly name: string
  readonly program: string
  /** @returns arguments: serves the file `disk` at the socket with TLS, `pid` is written when it listens */
  args(at: { socket: string; disk: string; pid: string; dir: string; kind: 'x509' | 'psk' }): string[]
}

const servers: readonly Case[] = [
  {
    name: 'qemu-nbd',
    program: 'qemu-nbd',
    args: ({ socket, disk, pid, dir, kind }) => [
      ...['--object', `tls-creds-${kind},id=tls0,endpoint=server,dir=${dir}`, '--tls-creds', 'tls0'],
      ...['-t', '-k', socket, '-f', 'raw', '-x', 'disk', '--shared=8', `--pid-file=${pid}`, disk],
    ],
  },
  {
    name: 'nbdkit',
    program: 'nbdkit',
    args: ({ socket, disk, pid, dir, kind }) => [
      ...(kind === 'x509'
        ? [`--tls-certificates=${dir}`, '--tls-verify-peer']
        : [`--tls-psk=${join(dir, 'keys.psk')}`]),
      ...['--tls=require', '-f', '-U', socket, '-P', pid, '-e', 'disk', 'file', disk],
    ],
  },
]

/** @returns ends it, as a crash would */
async function serving(t: Test, program: string, args: readonly string[], pid: string) {
  rmSync(pid, { force: true })
  const child = spawn(program, args, { stdio: 'ignore' })
  const orphaned = () => void child.kill('SIGKILL')
  process.once('exit', orphaned)
  const stop = async () => {
    process.removeListener('exit', orphaned)
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  t.teardown(stop)
  while (!existsSync(pid) || readFileSync(pid, 'utf8') === '') {
    if (child.exitCode !== null) throw new Error(`${program} ${args.join(' ')} ended`)
    await pace(5)
  }
  return stop
}

async function daemonAt(t: Test, folder: string): Promise<QmpClient> {
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  return daemon.client
}

function keysAt(dir: string, user = 'qemu', key = KEY): string {
  mkdirSync(dir, { recursive: true })
  writeFileSync(join(dir, 'keys.psk'), `# two of them\nother:ff00\n${user}:${key}\n`)
  return dir
}

function node(path: string, more: object = {}) {
  const server = { type: 'unix', path }
  const tls = { 'tls-creds': 'tls', 'tls-hostname': 'localhost' }
  return { driver: 'nbd', 'node-name': 'net', export: 'disk', server, ...tls, ...more }
}

async function mirrored(client: QmpClient, device: string, target: string): Promise<void> {
  const job = { 'job-id': 'job', device, target, sync: 'full', 'auto-dismiss': false }
  await client.execute('blockdev-mirror', { ...job, 'x-auto-complete': true })
  await client.status('job', 'concluded')
  const [found] = (await client.execute('query-jobs')) as { error?: string }[]
  if (found?.error !== undefined) throw new Error(found.error)
  await client.execute('job-dismiss', { id: 'job' })
}

for (const { name, program, args } of servers)
  for (const kind of ['x509', 'psk'] as const)
    t.test(
      `${name}, ${kind}: a mirror to it and one from it are equal`,
      { skip: noOpenssl || (installed(program) ? false : `no ${program}`) },
      async (t) => {
        const folder = shortFolder(t)
        const at = (file: string) => join(folder, file)
        const [there, here] = [at('there'), at('here')]
        if (kind === 'x509') {
          const authority = new Authority(at('ca'))
          authority.issue(there, ['server'])
          authority.issue(here, ['client'])
        } else {
          keysAt(there)
          keysAt(here)
        }
        fill(at('source'), 20 * MiB)
        truncateSync(at('source'), 32 * MiB)
        empty(at('disk'), 32 * MiB)
        empty(at('back'), 32 * MiB)
        const [socket, disk, pid] = [at('s'), at('disk'), at('pid')]
        await serving(t, program, args({ socket, disk, pid, dir: there, kind }), pid)
        const client = await daemonAt(t, folder)
        await client.execute('object-add', { 'qom-type': `tls-creds-${kind}`, id: 'tls', dir: here })
        await client.execute('blockdev-add', rawNode('source', at('source')))
        await client.execute('blockdev-add', rawNode('back', at('back')))
        await client.execute('blockdev-add', node(socket))
        // A node keeps what it was given.
        await client.execute('object-del', { id: 'tls' })
        rmSync(here, { recursive: true })
        await mirrored(client, 'source', 'net')
        t.equal(difference(at('source'), disk), undefined)
        await mirrored(client, 'net', 'back')
        t.equal(difference(disk, at('back')), undefined)
        await client.execute('blockdev-del', { 'node-name': 'net' })
      },
    )

t.test(
  'a server that comes back is encrypted as before',
  { skip: installed('qemu-nbd') ? false : 'no qemu-nbd' },
  async (t) => {
    const folder = shortFolder(t)
    const at = (file: string) => join(folder, file)
    const [plain] = servers
    if (plain === undefined) throw new Error('no servers')
    fill(at('disk'), 32 * MiB)
    empty(at('copy'), 32 * MiB)
    const place = { socket: at('s'), disk: at('disk'), pid: at('pid'), dir: keysAt(at('keys')) }
    const args = plain.args({ ...place, kind: 'psk' })
    const stop = await serving(t, plain.program, args, place.pid)
    const client = await daemonAt(t, folder)
    await client.execute('object-add', { 'qom-type': 'tls-creds-psk', id: 'tls', dir: place.dir })
    await client.execute('blockdev-add', rawNode('copy', at('copy')))
    await client.execute('blockdev-add', node(place.socket, { 'reconnect-delay': 100 }))
    const job = { 'job-id': 'job', device: 'net', target: 'copy', sync: 'full', 'auto-dismiss': false }
    await client.execute('blockdev-mirror', {
      ...job,
      speed: 8 * MiB,
      'buf-size': MiB,
      'x-auto-complete': true,
    })
    await stop()
    await serving(t, plain.program, args, place.pid)
    await client.execute('block-job-set-speed', { device: 'job', speed: 0 })
    await client.status('job', 'concluded')
    t.match(await client.execute('query-jobs'), [{ id: 'job', error: undefined }])
    t.equal(difference(at('disk'), at('copy')), undefined)
  },
)

/** A daemon that serves the export `disk` of 8 MiB with the credentials in a folder. */
async function ownServer(t: Test, folder: string, credentials: object): Promise<string> {
  const client = await daemonAt(t, folder)
  empty(join(folder, 'disk'), 8 * MiB)
  const path = join(folder, 'own.sock')
  await client.execute('blockdev-add', rawNode('disk', join(folder, 'disk')))
  await client.execute('object-add', { id: 'server', endpoint: 'server', ...credentials })
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path } }, 'tls-creds': 'server' })
  await client.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', writable: true })
  return path
}

/** Adds the node with credentials, and takes it away again. @returns what was refused, or undefined */
async function attempt(client: QmpClient, path: string, credentials: object, more: object = {}) {
  await client.execute('object-add', { id: 'tls', ...credentials })
  try {
    await client.execute('blockdev-add', node(path, more), 60_000)
    await client.execute('blockdev-del', { 'node-name': 'net' })
    return undefined
  } catch (error) {
    return (error as Error).message
  } finally {
    await client.execute('object-del', { id: 'tls' })
  }
}

t.test(
  'certificates: what is wrong is said, and nothing is left of the node',
  { skip: noOpenssl },
  async (t) => {
    const folder = shortFolder(t)
    const at = (file: string) => join(folder, file)
    const [authority, stranger] = [new Authority(at('ca')), new Authority(at('other-ca'))]
    mkdirSync(at('server'))
    const path = await ownServer(t, at('server'), {
      'qom-type': 'tls-creds-x509',
      dir: authority.issue(at('server-tls'), ['server']),
    })
    const client = await daemonAt(t, folder)
    const good = authority.issue(at('good'), ['client'])
    const halves = authority.issue(at('halves'), ['client'])
    rmSync(join(halves, 'client-key.pem'))
    const broken = authority.issue(at('broken'), ['client'])
    writeFileSync(join(broken, 'client-cert.pem'), 'no certificate\n')
    const x509 = (dir: string, more: object = {}) => ({ 'qom-type': 'tls-creds-x509', dir, ...more })
    // Who is refused may be cut off before the reason has arrived.
    const refused = /^Failed to connect to '.*': TLS: .*; the server may not accept the client's credentials$/
    const failed = (why: string) => `Failed to connect to '${path}': ${why}`
    const cases: { name: string; credentials: object; more?: object; said: string | RegExp | undefined }[] = [
      { name: 'all in order', credentials: x509(good), said: undefined },
      {
        name: 'an address is named, too',
        credentials: x509(good),
        more: { 'tls-hostname': '127.0.0.1' },
        said: undefined,
      },
      {
        name: 'another CA',
        credentials: x509(stranger.issue(at('strange'), ['client'])),
        said: failed("The certificate hasn't got a known issuer"),
      },
      {
        name: 'another name',
        credentials: x509(good),
        more: { 'tls-hostname': 'elsewhere.example' },
        said: failed('Certificate does not match the hostname elsewhere.example'),
      },
      {
        name: 'no name to compare',
        credentials: x509(good),
        more: { 'tls-hostname': undefined },
        said: "No hostname for certificate validation: set 'tls-hostname'",
      },
      {
        name: 'nothing is compared',
        credentials: x509(good, { 'verify-peer': false }),
        more: { 'tls-hostname': 'elsewhere.example' },
        said: undefined,
      },
      {
        name: 'no certificate of the client',
        credentials: x509(authority.trust(at('none'))),
        said: refused,
      },
      {
        name: 'an expired certificate of the client',
        credentials: x509(authority.issue(at('old'), ['client'], { days: -1 })),
        said: refused,
      },
      {
        name: 'no folder',
        credentials: x509(at('nowhere')),
        said: `Unable to access credentials ${at('nowhere')}/ca-cert.pem: No such file or directory`,
      },
      {
        name: 'half a pair',
        credentials: x509(halves),
        said: `TLS credentials in '${halves}': client-cert.pem and client-key.pem belong together, and one is missing`,
      },
      {
        name: 'a file that is no certificate',
        credentials: x509(broken),
        said: /^Failed to connect to '.*': TLS credentials in '.*broken' cannot be used: /,
      },
      {
        name: 'credentials of the other end',
        credentials: x509(good, { endpoint: 'server' }),
        said: 'Expected TLS credentials for a client endpoint',
      },
      {
        name: 'no credentials',
        credentials: { 'qom-type': 'iothread' },
        said: "Object with id 'tls' is not TLS credentials",
      },
    ]
    for (const { name, credentials, more, said } of cases) {
      const found = await attempt(client, path, credentials, more)
      if (said instanceof RegExp) t.match(found, said, name)
      else t.equal(found, said, name)
      t.same(await client.execute('query-named-block-nodes'), [], name)
    }
    await t.rejects(client.execute('blockdev-add', node(path)), {
      message: "No TLS credentials with id 'tls'",
    })
  },
)

t.test('a server whose certificate has expired is not used', { skip: noOpenssl }, async (t) => {
  const folder = shortFolder(t)
  const authority = new Authority(join(folder, 'ca'))
  const dir = authority.issue(join(folder, 'server-tls'), ['server'], { days: -1 })
  mkdirSync(join(folder, 'server'))
  const path = await ownServer(t, join(folder, 'server'), { 'qom-type': 'tls-creds-x509', dir })
  const client = await daemonAt(t, folder)
  const credentials = { 'qom-type': 'tls-creds-x509', dir: authority.issue(join(folder, 'good'), ['client']) }
  t.equal(
    await attempt(client, path, credentials),
    `Failed to connect to '${path}': The certificate has expired`,
  )
})

t.test('keys: the same one is needed, under the same name', async (t) => {
  const folder = shortFolder(t)
  const at = (file: string) => join(folder, file)
  mkdirSync(at('server'))
  const path = await ownServer(t, at('server'), {
    'qom-type': 'tls-creds-psk',
    dir: keysAt(at('server-tls')),
  })
  const client = await daemonAt(t, folder)
  const psk = (dir: string, more: object = {}) => ({ 'qom-type': 'tls-creds-psk', dir, ...more })
  t.equal(await attempt(client, path, psk(keysAt(at('good')))), undefined)
  t.match(
    await attempt(client, path, psk(keysAt(at('bad'), 'qemu', 'ffee'))),
    /^Failed to connect to '.*': TLS handshake/,
    'another key',
  )
  t.match(
    await attempt(client, path, psk(keysAt(at('unknown'), 'alice'), { username: 'alice' })),
    /^Failed to connect to '.*': TLS handshake/,
    'a name the server does not know',
  )
  t.equal(
    await attempt(client, path, psk(at('good'), { username: 'bob' })),
    `Username bob not found in PSK file ${at('good')}/keys.psk`,
  )
  writeFileSync(at('good/mine'), `qemu:${KEY}\n`)
  t.equal(
    await attempt(client, path, psk(at('good'), { 'x-file': 'mine' })),
    undefined,
    'a file of another name',
  )
  t.equal(
    await attempt(client, path, { 'qom-type': 'tls-creds-x509', dir: at('good') }),
    `Unable to access credentials ${at('good')}/ca-cert.pem: No such file or directory`,
  )
})

t.test('a server without TLS is not used', { skip: noOpenssl }, async (t) => {
  const folder = shortFolder(t)
  const client = await daemonAt(t, folder)
  empty(join(folder, 'disk'), MiB)
  const path = join(folder, 'plain')
  await client.execute('blockdev-add', rawNode('disk', join(folder, 'disk')))
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
  await client.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk' })
  const other = await daemonAt(t, folder)
  const dir = new Authority(join(folder, 'ca')).issue(join(folder, 'tls'), ['client'])
  t.match(
    await attempt(other, path, { 'qom-type': 'tls-creds-x509', dir }),
    /^Failed to connect to '.*': TLS is required, and the server refused it/,
  )
})

t.test('a server that says nothing once TLS begins: others are answered, and the daemon ends', async (t) => {
  const folder = shortFolder(t)
  const path = join(folder, 'silent')
  const sockets: Socket[] = []
  let asked = 0
  const silent = createTcpServer((socket) => {
    sockets.push(socket.on('error', () => undefined))
    socket.write(Buffer.from('4e42444d4147494349484156454f50540003', 'hex'))
    socket.on('data', (bytes: Buffer) => {
      // The answer to STARTTLS, and nothing behind it.
      if (bytes.includes('IHAVEOPT'))
        socket.write(Buffer.from('0003e889045565a9000000050000000100000000', 'hex'))
      asked++
    })
  }).listen(path)
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    silent.close()
  })
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  const other = await daemon.connect()
  await client.execute('object-add', {
    'qom-type': 'tls-creds-psk',
    id: 'tls',
    dir: keysAt(join(folder, 'psk')),
  })
  client.execute('blockdev-add', node(path), 60_000).catch(() => undefined)
  // The client's hello, and its first message of TLS.
  while (asked < 2) await pace(5)
  for (let answers = 0; answers < 100; answers++) await other.execute('query-jobs', {}, 5000)
  t.equal(await daemon.stop(20_000), undefined)
})
