// SPDX-License-Identifier: Apache-2.0
// Images over HTTPS: who is served, who is not, and certificates that are renewed while the server runs.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, renameSync } from 'node:fs'
import * as https from 'node:https'
import { createConnection } from 'node:net'
import { type SecureVersion, connect as tlsConnect } from 'node:tls'
import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { childrenOf } from '../../helpers/processes.js'
import { installed } from '../../helpers/program.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'
import { SlowFs, slowfsAbsent } from '../../helpers/slowfs.js'
import { pace, within } from '../../helpers/waiting.js'

const skip = installed('openssl') ? false : 'no openssl'

function openssl(scratch: Scratch, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync('openssl', args, { cwd: scratch.path, encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
}

/** NAME.key and NAME.pem, signed by the authority, which is made first. */
function certificate(scratch: Scratch, name: string, common: string): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const made = ['-keyout', `${name}.key`, '-subj', `/CN=${common}`]
  if (name === 'ca') {
    openssl(scratch, 'req', '-x509', ...key, ...made, '-out', 'ca.pem', '-days', '2')
    return
  }
  openssl(scratch, 'req', ...key, ...made, '-out', `${name}.csr`, '-addext', 'subjectAltName=IP:127.0.0.1')
  const sign = [
    '-CA',
    'ca.pem',
    '-CAkey',
    'ca.key',
    '-CAcreateserial',
    '-days',
    '2',
    '-copy_extensions',
    'copy',
  ]
  openssl(scratch, 'x509', '-req', '-in', `${name}.csr`, '-out', `${name}.pem`, ...sign)
}

async function start(scratch: Scratch, more = ''): Promise<{ daemon: ImagesDaemon; port: number }> {
  for (const name of ['ca', 'server', 'client']) certificate(scratch, name, name)
  const files = `cert=${scratch.file('server.pem')},key=${scratch.file('server.key')}${more}`
  const daemon = await ImagesDaemon.start(scratch, ['--images-tls', files, '--images', 'https://127.0.0.1:0'])
  fill(scratch.file('data'), 4 * MiB)
  await daemon.ticket('t', 'data', 4 * MiB)
  return { daemon, port: Number(new URL(daemon.url).port) }
}

async function ask(port: number, options: https.RequestOptions, body?: Uint8Array) {
  const sent = https.request({ host: '127.0.0.1', port, path: '/images/t', agent: false, ...options })
  sent.end(body)
  const [reply] = (await once(sent, 'response')) as [import('node:http').IncomingMessage]
  const parts: Buffer[] = []
  for await (const part of reply) parts.push(part as Buffer)
  return { status: reply.statusCode, bytes: Buffer.concat(parts) }
}

/** Name in the certificate the server shows. */
async function shown(port: number, ca: Buffer, maxVersion?: SecureVersion): Promise<string> {
  const socket = tlsConnect({
    host: '127.0.0.1',
    port,
    ca,
    ...(maxVersion && { maxVersion, minVersion: maxVersion }),
  })
  await once(socket, 'secureConnect')
  const { CN } = socket.getPeerCertificate().subject
  socket.destroy()
  return String(CN)
}

t.test('bytes go both ways over TLS', { skip }, async (t) => {
  using scratch = new Scratch()
  const { daemon, port } = await start(scratch)
  await using _daemon = daemon
  const ca = readFileSync(scratch.file('ca.pem'))
  const body = Buffer.alloc(3 * MiB, 7)
  t.equal(
    (await ask(port, { ca, method: 'PUT', headers: { 'content-range': 'bytes 1000-*/*' } }, body)).status,
    200,
  )
  const { status, bytes } = await ask(port, { ca })
  t.equal(status, 200)
  t.equal(Buffer.compare(bytes, readFileSync(scratch.file('data'))), 0)
  t.equal(Buffer.compare(bytes.subarray(1000, 1000 + body.length), body), 0)
})

t.test('TLS is 1.2 or later, and nobody is served in the clear', { skip }, async (t) => {
  using scratch = new Scratch()
  const { daemon, port } = await start(scratch)
  await using _daemon = daemon
  const ca = readFileSync(scratch.file('ca.pem'))
  t.equal(await shown(port, ca, 'TLSv1.2'), 'server')
  t.equal(await shown(port, ca, 'TLSv1.3'), 'server')
  await t.rejects(shown(port, ca, 'TLSv1.1'))
  using plain = new RawConnection({ host: '127.0.0.1', port })
  plain.send('OPTIONS /images/t HTTP/1.1\r\n\r\n')
  t.notMatch(await plain.closed(), /HTTP/)
})

t.test('a client that says nothing holds up nobody', { skip }, async (t) => {
  using scratch = new Scratch()
  const { daemon, port } = await start(scratch)
  await using _daemon = daemon
  const silent = createConnection({ host: '127.0.0.1', port })
  t.teardown(() => silent.destroy())
  await once(silent, 'connect')
  t.equal((await ask(port, { ca: readFileSync(scratch.file('ca.pem')), method: 'OPTIONS' })).status, 200)
})

t.test('where clients need a certificate, one without is not served', { skip }, async (t) => {
  using scratch = new Scratch()
  const { daemon, port } = await start(scratch, `,client-ca=${scratch.file('ca.pem')}`)
  await using _daemon = daemon
  const ca = readFileSync(scratch.file('ca.pem'))
  const [cert, key] = [readFileSync(scratch.file('client.pem')), readFileSync(scratch.file('client.key'))]
  await t.rejects(ask(port, { ca, method: 'OPTIONS' }))
  t.equal((await ask(port, { ca, cert, key, method: 'OPTIONS' })).status, 200)
})

t.test(
  'a renewed certificate is shown after SIGHUP, and a broken one changes nothing',
  { skip },
  async (t) => {
    using scratch = new Scratch()
    const { daemon, port } = await start(scratch)
    await using _daemon = daemon
    const ca = readFileSync(scratch.file('ca.pem'))
    certificate(scratch, 'renewed', 'renewed')
    for (const kind of ['pem', 'key'])
      renameSync(scratch.file(`renewed.${kind}`), scratch.file(`server.${kind}`))
    process.kill(daemon.pid, 'SIGHUP')
    let name = 'server'
    while (name === 'server') name = await shown(port, ca)
    t.equal(name, 'renewed')
    renameSync(scratch.file('client.key'), scratch.file('server.key'))
    const told = daemon.logged(/not read again/)
    process.kill(daemon.pid, 'SIGHUP')
    await told
    t.equal(await shown(port, ca), 'renewed')
  },
)

const noSlow = skip === false ? slowfsAbsent() : skip

/** Engines of a daemon, when those that are made ahead, some seconds after its start, are there. */
async function settledChildren(pid: number): Promise<number> {
  for (let [last, same] = [-1, 0]; ; ) {
    const now = childrenOf(pid).length
    same = now === last ? same + 1 : 0
    if (same === 40) return now
    last = now
    await pace(100)
  }
}

t.test('credentials that cannot be read hold up nobody, nor the end', { skip: noSlow }, async (t) => {
  using scratch = new Scratch()
  const slow = await SlowFs.mount(scratch.path)
  try {
    for (const name of ['ca', 'server']) certificate(scratch, name, name)
    for (const name of ['server.pem', 'server.key']) renameSync(scratch.file(name), `${slow.files}/${name}`)
    const files = `cert=${slow.mount}/server.pem,key=${slow.mount}/server.key`
    const https = ['--images-tls', files, '--images', 'https://127.0.0.1:0']
    const daemon = await ImagesDaemon.start(scratch, https)
    fill(scratch.file('data'), MiB)
    await daemon.ticket('t', 'data', MiB)
    slow.rules({ op: 'open', delayMs: 120_000 })
    const port = Number(new URL(daemon.url).port)
    const ca = readFileSync(scratch.file('ca.pem'))
    t.equal((await ask(port, { ca, method: 'OPTIONS' })).status, 200)
    const engines = await settledChildren(daemon.pid)
    process.kill(daemon.pid, 'SIGHUP')
    while (childrenOf(daemon.pid).length === engines) await pace(20)
    // More than there are threads that all of the process would share.
    for (let count = 0; count < 5; count++) {
      process.kill(daemon.pid, 'SIGHUP')
      t.equal((await ask(port, { ca, method: 'OPTIONS' })).status, 200)
    }
    t.equal(childrenOf(daemon.pid).length, engines + 1, 'the files are being read once')
    await within(daemon[Symbol.asyncDispose](), 60_000, 'the end')
  } finally {
    await slow.unmount()
  }
})

t.test(
  'https without credentials, and credentials that are none, end the start with one line',
  { skip },
  async (t) => {
    using scratch = new Scratch()
    const { runDaemon } = await import('../../helpers/daemon-process.js')
    const without = await runDaemon(['--images', 'https://127.0.0.1:0'])
    t.match(without, {
      status: 2,
      stderr: /^blockferryd: --images https:\/\/127.0.0.1:0: https needs --images-tls before it\n$/,
    })
    const url = ['--images', 'https://127.0.0.1:0']
    const absent = await runDaemon([
      '--images-tls',
      `cert=${scratch.file('a')},key=${scratch.file('b')}`,
      ...url,
    ])
    t.match(absent, {
      status: 1,
      stderr: /^blockferryd: .*Unable to access credentials .*: No such file or directory\n$/,
    })
    t.match(await runDaemon(['--images-tls', 'cert=a', ...url]), {
      status: 2,
      stderr: /expected cert=FILE,key=FILE/,
    })
    for (const value of ['http://host', 'ftp://host:1', 'http://host:65536', 'http://host:1/path'])
      t.match(
        await runDaemon(['--images', value]),
        { status: 2, stderr: /expected http:\/\/HOST:PORT/ },
        value,
      )
  },
)
