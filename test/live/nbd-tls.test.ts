// SPDX-License-Identifier: Apache-2.0
// NBD over TLS with real clients: certificates of both ends, keys that both know, and clients that have neither.

import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { Authority } from '../helpers/nbd/certificates.js'
import { installed } from '../helpers/program.js'
import { shortFolder } from '../helpers/short-folder.js'

const MiB = 1 << 20
const skip = ['openssl', 'qemu-io'].every((name) => installed(name)) ? false : 'no openssl or no qemu-io'

/** A daemon with a disk of 8 MiB that is served over TLS. */
async function serving(t: Test, folder: string, credentials: object, rules?: string) {
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const disk = join(folder, 'disk')
  writeFileSync(disk, '')
  truncateSync(disk, 8 * MiB)
  const { client } = daemon
  const path = join(folder, 'nbd')
  const file = { driver: 'file', filename: disk }
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'disk', file })
  await client.execute('object-add', { id: 'tls', endpoint: 'server', ...credentials })
  await client.execute('nbd-server-start', {
    addr: { type: 'unix', data: { path } },
    'tls-creds': 'tls',
    ...(rules !== undefined && { 'tls-authz': rules }),
  })
  await client.execute('block-export-add', {
    type: 'nbd',
    id: 'e',
    'node-name': 'disk',
    name: 'x',
    writable: true,
  })
  return { daemon, disk, path }
}

function qemuIo(path: string, credentials: string, commands: readonly string[], tls = true) {
  const server = `file.driver=nbd,file.server.type=unix,file.server.path=${path},file.export=x`
  const secured = ['--object', `${credentials},id=t,endpoint=client`]
  const how = tls ? `,file.tls-creds=t,file.tls-hostname=localhost` : ''
  return spawnSync(
    'qemu-io',
    [
      ...commands.flatMap((each) => ['-c', each]),
      ...(tls ? secured : []),
      ...['--image-opts', `driver=raw,${server}${how}`],
    ],
    { encoding: 'utf8', timeout: 60_000 },
  )
}

t.test('certificates: data arrives, and nobody is served without one', { skip }, async (t) => {
  const folder = shortFolder(t)
  const dir = join(folder, 'x509')
  new Authority(join(folder, 'ca')).issue(dir, ['server', 'client'])
  const { disk, path } = await serving(t, folder, { 'qom-type': 'tls-creds-x509', dir })
  const own = `tls-creds-x509,dir=${dir}`
  // Longer than any buffer on the way.
  const { stdout, stderr } = qemuIo(path, own, [
    'write -P 7 0 5M',
    'write -P 9 5000001 300',
    'read -P 7 0 5000001',
  ])
  t.equal(stderr, '')
  t.notMatch(stdout, 'Pattern verification failed')
  const bytes = readFileSync(disk)
  t.ok(bytes.subarray(0, 5_000_001).every((byte) => byte === 7))
  t.ok(bytes.subarray(5_000_001, 5_000_301).every((byte) => byte === 9))

  const stranger = join(folder, 'stranger')
  mkdirSync(stranger)
  writeFileSync(join(stranger, 'ca-cert.pem'), readFileSync(join(dir, 'ca-cert.pem')))
  t.not(qemuIo(path, `tls-creds-x509,dir=${stranger}`, ['read 0 512']).status, 0, 'without a certificate')
  t.match(qemuIo(path, '', ['read 0 512'], false).stderr, /TLS/, 'without TLS')
  t.equal(qemuIo(path, own, ['read -P 7 0 512']).status, 0, 'others are served afterwards')
})

t.test('a key that both ends know', { skip }, async (t) => {
  const folder = shortFolder(t)
  const dir = join(folder, 'psk')
  mkdirSync(dir)
  writeFileSync(join(dir, 'keys.psk'), `qemu:${randomBytes(32).toString('hex')}\n`)
  const { path } = await serving(t, folder, { 'qom-type': 'tls-creds-psk', dir })
  const { stdout, status } = qemuIo(path, `tls-creds-psk,dir=${dir}`, ['write -P 3 0 1M', 'read -P 3 0 1M'])
  t.equal(status, 0)
  t.notMatch(stdout, 'Pattern verification failed')
  const other = join(folder, 'other')
  mkdirSync(other)
  writeFileSync(join(other, 'keys.psk'), `qemu:${randomBytes(32).toString('hex')}\n`)
  t.not(qemuIo(path, `tls-creds-psk,dir=${other}`, ['read 0 512']).status, 0, 'another key')
})

t.test('credentials that cannot be used', async (t) => {
  const folder = shortFolder(t)
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  const path = join(folder, 'nbd')
  const start = (id: string) =>
    client.execute('nbd-server-start', { addr: { type: 'unix', data: { path } }, 'tls-creds': id })
  await t.rejects(start('none'), { message: "No TLS credentials with id 'none'" })
  await client.execute('object-add', { 'qom-type': 'iothread', id: 'io' })
  await t.rejects(start('io'), { message: "Object with id 'io' is not TLS credentials" })
  await client.execute('object-add', { 'qom-type': 'tls-creds-psk', id: 'own', dir: folder })
  await t.rejects(start('own'), { message: 'Expected TLS credentials for a server endpoint' })
  const psk = { 'qom-type': 'tls-creds-psk', id: 'psk', dir: folder, endpoint: 'server' }
  await client.execute('object-add', psk)
  await t.rejects(start('psk'), {
    message: `Unable to access credentials ${folder}/keys.psk: No such file or directory`,
  })
  writeFileSync(join(folder, 'keys.psk'), 'qemu:no digits\n')
  await t.rejects(start('psk'), { message: /not USER:KEY/ })
  writeFileSync(join(folder, 'keys.psk'), 'qemu:00ff\n')
  await start('psk')
})

const SUBJECT = 'O=blockferry,CN=client'

t.test('rules about the names in certificates apply as they are when a client comes', { skip }, async (t) => {
  const folder = shortFolder(t)
  const dir = new Authority(join(folder, 'ca')).issue(join(folder, 'x509'), ['server', 'client'])
  const rules = join(folder, 'rules.json')
  const { daemon, path } = await serving(t, folder, { 'qom-type': 'tls-creds-x509', dir }, 'rules')
  const { client } = daemon
  const comesIn = () => qemuIo(path, `tls-creds-x509,dir=${dir}`, ['read 0 512']).status === 0
  t.equal(comesIn(), false, 'no rules: nobody')
  const allowing = (match: string, more: object = {}) => ({
    'qom-type': 'authz-list',
    rules: [{ match, policy: 'allow', ...more }],
  })
  const cases: [string, object, boolean][] = [
    ['the name', { 'qom-type': 'authz-simple', identity: SUBJECT }, true],
    ['another name', { 'qom-type': 'authz-simple', identity: 'O=blockferry,CN=server' }, false],
    ['a list', allowing(SUBJECT), true],
    ['a pattern', allowing('O=*,CN=client', { format: 'glob' }), true],
    ['a pattern taken as a name', allowing('O=*,CN=client'), false],
    ['whoever is not named', { 'qom-type': 'authz-list', policy: 'allow' }, true],
    ['no rules', { 'qom-type': 'iothread' }, false],
    ['a file that is missing', { 'qom-type': 'authz-list-file', filename: rules }, false],
  ]
  for (const [name, object, allowed] of cases) {
    await client.execute('object-add', { id: 'rules', ...object })
    t.equal(comesIn(), allowed, name)
    await client.execute('object-del', { id: 'rules' })
  }
  await client.execute('object-add', { id: 'rules', 'qom-type': 'authz-list-file', filename: rules })
  writeFileSync(rules, JSON.stringify({ rules: [{ match: SUBJECT, policy: 'allow' }] }))
  t.equal(comesIn(), true, 'a file')
  writeFileSync(rules, '{"rules": [')
  t.equal(comesIn(), false, 'a file without sense')
  await client.execute('object-del', { id: 'rules' })
  writeFileSync(rules, JSON.stringify({ policy: 'allow' }))
  const once = { id: 'rules', 'qom-type': 'authz-list-file', filename: rules, refresh: false }
  await client.execute('object-add', once)
  t.equal(comesIn(), true, 'a file that is read once')
  writeFileSync(rules, JSON.stringify({ policy: 'deny' }))
  t.equal(comesIn(), true, 'what was read stays')
})

t.test('rules without certificates are refused', async (t) => {
  const folder = shortFolder(t)
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  const addr = { type: 'unix', data: { path: join(folder, 'nbd') } }
  const psk = { 'qom-type': 'tls-creds-psk', id: 'psk', dir: folder, endpoint: 'server' }
  await client.execute('object-add', psk)
  const open = { 'qom-type': 'tls-creds-x509', id: 'open', dir: folder, endpoint: 'server' }
  await client.execute('object-add', { ...open, 'verify-peer': false })
  for (const more of [{}, { 'tls-creds': 'psk' }, { 'tls-creds': 'open' }])
    await t.rejects(client.execute('nbd-server-start', { addr, 'tls-authz': 'rules', ...more }), {
      message: /^Parameter 'tls-authz' needs 'tls-creds' that ask clients for a certificate/,
    })
  await t.rejects(client.execute('object-add', { ...psk, id: 'named', username: 'u' }), {
    message: 'username should not be set when endpoint=server',
  })
  await t.rejects(client.execute('object-add', { 'qom-type': 'authz-pam', id: 'p', service: 's' }), {
    message: "Parameter 'qom-type' does not accept value 'authz-pam'",
  })
})
