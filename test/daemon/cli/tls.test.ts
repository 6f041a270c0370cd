// SPDX-License-Identifier: Apache-2.0
// The command line and TLS: `serve --tls`, and nbds URIs in the place of image names.

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { userInfo } from 'node:os'
import t from 'tap'
import { Authority } from '../../helpers/nbd/certificates.js'
import { installed } from '../../helpers/program.js'
import { difference, empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { type Run, run } from './run.js'

t.setTimeout(240_000)

const skip = installed('openssl') ? false : 'no openssl'
const KEY = '0123456789abcdef'.repeat(4)

/** Serves until `work` is done with the URI it prints. */
async function served(args: readonly string[], work: (uri: string) => Promise<void>): Promise<Run> {
  let worked: Promise<void> | undefined
  const result = await run(['serve', ...args], {
    onStart: (child: ChildProcess) => {
      const printed = Promise.race([once(child.stdout ?? child, 'data'), once(child, 'close')])
      worked = printed
        .then(async ([text]) => {
          if (typeof text === 'string') await work(text.trim())
        })
        .finally(() => child.kill('SIGINT'))
    },
  })
  await worked
  return result
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

t.test('certificates: every command that takes an image takes an nbds URI', { skip }, async (t) => {
  using scratch = new Scratch()
  const file = (name: string) => scratch.file(name)
  const authority = new Authority(file('ca'))
  const server = authority.issue(file('server'), ['server'])
  const client = authority.issue(file('client'), ['client'])
  fill(file('source'), 5 * MiB)
  empty(file('disk'), 5 * MiB)
  const port = String(await freePort())
  const args = ['--port', port, '--tls', server, '-f', 'raw', file('disk')]
  const { status, stderr } = await served(args, async (uri) => {
    t.equal(uri, `nbds://127.0.0.1:${port}/`)
    const full = `${uri}?tls-certificates=${client}`
    t.match(await run(['info', full]), { status: 0, stdout: /virtual size: 5 MiB/, stderr: '' })
    t.match(await run(['mirror', file('source'), full]), { status: 0, stderr: '' })
    t.match(await run(['compare', file('source'), full]), { status: 0, stdout: /identical/ })
    t.match(await run(['map', '--json', full]), { status: 0, stdout: /"data": true/ })
    t.match(await run(['convert', '-O', 'qcow2', full, file('image')]), { status: 0, stderr: '' })
    t.match(await run(['compare', file('image'), full]), { status: 0, stdout: /identical/ })
    t.match(await run(['convert', '-n', '-O', 'raw', file('image'), full]), { status: 0, stderr: '' })
    const wrong = await run(['info', `${full}&tls-hostname=elsewhere`])
    t.match(wrong, { status: 1, stderr: /Certificate does not match the hostname elsewhere/ })
    const careless = await run(['info', `${full}&tls-hostname=elsewhere&tls-verify-peer=false`])
    t.match(careless, { status: 0 })
    t.match(await run(['info', uri.replace('nbds', 'nbd')]), { status: 1, stderr: /requires TLS/ })
  })
  t.same({ status, stderr }, { status: 0, stderr: '' })
  t.equal(difference(file('source'), file('disk')), undefined)
})

t.test('keys, at a Unix socket; images made on an export', async (t) => {
  using scratch = new Scratch()
  const file = (name: string) => scratch.file(name)
  writeFileSync(file('keys'), `alice:${KEY}\n${userInfo().username}:${KEY}\n`)
  empty(file('disk'), 8 * MiB)
  fill(file('source'), 4 * MiB)
  const args = ['--socket', file('s'), '--tls', file('keys'), '-f', 'raw', file('disk')]
  const { status } = await served(args, async (uri) => {
    t.equal(uri, `nbds+unix:///?socket=${file('s')}`)
    const full = `${uri}&tls-psk-file=${file('keys')}`
    t.match(await run(['info', full]), { status: 0, stderr: '' }, 'the name is the user’s')
    t.match(await run(['info', `${full}&tls-username=alice`]), { status: 0, stderr: '' })
    t.match(await run(['info', `${full}&tls-username=bob`]), {
      status: 1,
      stderr: /Username bob not found in PSK file/,
    })
    t.match(await run(['convert', '-O', 'qcow2', file('source'), full]), { status: 0, stderr: '' })
    t.match(await run(['check', full]), { status: 0, stdout: /No errors/ })
    t.match(await run(['compare', '-f', 'qcow2', full, file('source')]), { status: 0, stdout: /identical/ })
  })
  t.equal(status, 0)
})

t.test('serve lets in only those it names', { skip }, async (t) => {
  using scratch = new Scratch()
  const dir = new Authority(scratch.file('ca')).issue(scratch.file('tls'), ['server', 'client'])
  empty(scratch.file('disk'), MiB)
  const args = ['--socket', scratch.file('s'), '--tls', dir, '-f', 'raw', scratch.file('disk')]
  for (const [name, status] of [
    ['O=blockferry,CN=*', 0],
    ['O=other,*', 1],
  ] as const)
    await served([...args, '--tls-allow', name], async (uri) => {
      const full = `${uri}&tls-certificates=${dir}&tls-hostname=localhost`
      t.equal((await run(['info', full])).status, status, name)
    })
})

t.test('what contradicts itself is a usage error', async (t) => {
  using scratch = new Scratch()
  writeFileSync(scratch.file('keys'), `alice:${KEY}\n`)
  empty(scratch.file('disk'), MiB)
  const serving = ['serve', '--socket', scratch.file('s'), scratch.file('disk')]
  const cases: { args: string[]; status: number; stderr: string }[] = [
    { args: ['info', 'nbd://h/?tls-certificates=/x'], status: 2, stderr: 'queries tls-… need nbds://' },
    { args: ['info', 'nbds://h/?tls-type=anon'], status: 2, stderr: "tls-type is x509 or psk, found 'anon'" },
    { args: ['info', 'nbds://h/?tls-type=psk'], status: 2, stderr: 'tls-type=psk needs tls-psk-file=FILE' },
    {
      args: ['info', 'nbds://h/?tls-psk-file=/x&tls-certificates=/y'],
      status: 2,
      stderr: 'tls-psk-file and certificates exclude each other',
    },
    {
      args: ['info', 'nbds://h/?tls-certificates=/x&tls-verify-peer=perhaps'],
      status: 2,
      stderr: "tls-verify-peer is true or false, found 'perhaps'",
    },
    {
      args: ['info', 'nbds://localhost/?tls-certificates=/no/such/folder'],
      status: 1,
      stderr: 'Unable to access credentials /no/such/folder/ca-cert.pem: No such file or directory',
    },
    { args: [...serving, '--tls-allow', 'x'], status: 2, stderr: 'need --tls' },
    { args: [...serving, '--tls', '/no/such'], status: 1, stderr: 'No such file or directory' },
    {
      args: [...serving, '--tls', scratch.file('keys'), '--no-verify-peer'],
      status: 2,
      stderr: 'is a file of keys',
    },
    {
      args: [...serving, '--tls', scratch.path, '--no-verify-peer', '--tls-allow', 'x'],
      status: 2,
      stderr: 'exclude each other',
    },
  ]
  for (const { args, status, stderr } of cases) {
    const result = await run(args)
    t.equal(result.status, status, args.join(' '))
    t.match(result.stderr, stderr)
  }
})
