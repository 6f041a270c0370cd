// SPDX-License-Identifier: Apache-2.0
// `blockferry serve`: an image is used by NBD clients for as long as the command runs.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installed } from '../../helpers/program.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { run } from './run.js'

const skip = installed('qemu-io') ? false : 'no qemu-io'

/** Runs the command until `work` is done with the URI it prints, then interrupts it. */
async function served(args: readonly string[], work: (uri: string) => Promise<void>) {
  let child: ChildProcess | undefined
  let worked: Promise<void> | undefined
  const result = await run(args, {
    onStart: (started) => {
      child = started
      const printed = once(started.stdout ?? started, 'data') as Promise<[string]>
      worked = printed
        .then(([text]) => work(text.trim()))
        .finally(() => {
          child?.kill('SIGINT')
        })
    },
  })
  await worked
  return result
}

/** What qemu-io says to commands. */
async function qemuIo(uri: string, ...commands: string[]): Promise<string> {
  const child = spawn('qemu-io', ['-f', 'raw', ...commands.flatMap((each) => ['-c', each]), uri])
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (more: string) => {
      text += more
    })
  await once(child, 'close')
  return text
}

function imageFile(t: Test, name = 'disk.img'): string {
  const path = join(shortFolder(t), name)
  writeFileSync(path, '')
  truncateSync(path, 4 << 20)
  return path
}

t.test('a client writes to the image, and the end leaves no socket', { skip }, async (t) => {
  const path = imageFile(t)
  const socket = `${path}.sock`
  const { status, stderr } = await served(['serve', '-f', 'raw', '--socket', socket, path], async (uri) => {
    t.equal(uri, `nbd+unix:///?socket=${socket}`)
    t.match(await qemuIo(uri, 'write -P 7 64k 64k', 'flush'), 'wrote 65536/65536')
  })
  t.same({ status, stderr }, { status: 0, stderr: '' })
  const bytes = readFileSync(path)
  t.ok(bytes.subarray(65536, 131072).every((byte) => byte === 7))
  t.ok(bytes.subarray(0, 65536).every((byte) => byte === 0))
  t.notOk(existsSync(socket))
})

t.test('who lets clients write where raw is only guessed is warned', async (t) => {
  const path = imageFile(t)
  const warning = /^blockferry: warning: '.*' was only guessed to be raw, [^\n]*; name its format\n$/
  const socket = ['--socket', `${path}.sock`]
  const nothing = async () => undefined
  t.match(await served(['serve', ...socket, path], nothing), { status: 0, stderr: warning })
  t.match(await served(['serve', '-r', ...socket, path], nothing), { status: 0, stderr: '' })
})

t.test('an image that a client may write to is not compared: 2, not a difference', async (t) => {
  const path = imageFile(t)
  const other = imageFile(t, 'other.img')
  await served(['serve', '-f', 'raw', '--socket', `${path}.sock`, path], async () => {
    const { status, stderr } = await run(['compare', '-f', 'raw', '-F', 'raw', path, other])
    t.equal(status, 2)
    t.match(stderr, /^blockferry: cannot .*disk\.img/)
  })
})

for (const more of [[], ['-r']])
  t.test(
    `what is served is neither overwritten nor cut off: serve ${more.join(' ')}`,
    { skip },
    async (t) => {
      const path = imageFile(t)
      writeFileSync(path, Buffer.alloc(4 << 20, 5))
      const source = imageFile(t)
      const socket = `${path}.sock`
      await served(['serve', ...more, '-f', 'raw', '--socket', socket, path], async () => {
        for (const args of [
          ['mirror', source, path],
          ['convert', source, path],
          ['backup', source, path],
          ['create', '-f', 'raw', path, '1M'],
          ['resize', '-f', 'raw', '--shrink', path, '1M'],
        ]) {
          const { status, stderr } = await run(args)
          t.same(
            { status, lock: stderr.includes('Failed to get "resize" lock') },
            { status: 1, lock: true },
            args.join(' '),
          )
          t.ok(readFileSync(path).equals(Buffer.alloc(4 << 20, 5)), 'and nothing is changed')
        }
      })
    },
  )

t.test('read-only, under a name', { skip }, async (t) => {
  const path = imageFile(t)
  const socket = `${path}.sock`
  const args = ['serve', '-r', '-x', 'a b', '-f', 'raw', '--socket', socket, path]
  const { status } = await served(args, async (uri) => {
    t.equal(uri, `nbd+unix:///a%20b?socket=${socket}`)
    t.match(await qemuIo(uri, 'write 0 64k'), /read.only|permi/i)
  })
  t.equal(status, 0)
})

t.test('what cannot be served says why', async (t) => {
  const path = imageFile(t)
  for (const { args, status, stderr } of [
    { args: [path], status: 2, stderr: 'either --socket PATH or --port NUMBER' },
    {
      args: ['--socket', 'x', '--port', '1', path],
      status: 2,
      stderr: 'either --socket PATH or --port NUMBER',
    },
    { args: ['--port', '65536', path], status: 2, stderr: "1 to 65535, found '65536'" },
    { args: ['--socket', `${path}.sock`, `${path}.none`], status: 1, stderr: 'No such file or directory' },
    { args: ['--socket', '/no/such/folder/s', path], status: 1, stderr: 'Failed to bind socket' },
  ]) {
    const result = await run(['serve', ...args])
    t.equal(result.status, status, args.join(' '))
    t.match(result.stderr, stderr)
  }
})
