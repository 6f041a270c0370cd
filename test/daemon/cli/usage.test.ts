// SPDX-License-Identifier: Apache-2.0
// What is refused before anything is touched: one line on stderr, nothing on stdout, and the documented exit status.

import { spawnSync } from 'node:child_process'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { shortFolder } from '../../helpers/short-folder.js'
import { run } from './run.js'

const refusals: { name: string; args: string[]; status: number; text: string }[] = [
  { name: 'no command', args: [], status: 2, text: 'which command? See --help' },
  { name: 'unknown command', args: ['frob'], status: 2, text: "unknown command 'frob'" },
  { name: 'unknown command with words', args: ['frob', 'x'], status: 2, text: "unknown command 'frob'" },
  {
    name: 'unknown command with options',
    args: ['rebase', '-u', 'x'],
    status: 2,
    text: "unknown command 'rebase'",
  },
  { name: 'unknown option', args: ['--frob'], status: 2, text: "unknown option '--frob'" },
  {
    name: 'mirror without target',
    args: ['mirror', 'a'],
    status: 2,
    text: "missing required argument 'target'",
  },
  {
    name: 'mirror with three paths',
    args: ['mirror', 'a', 'b', 'c'],
    status: 2,
    text: "too many arguments for 'mirror'. Expected 2 arguments but got 3",
  },
  {
    name: 'bad size',
    args: ['mirror', 'a', 'b', '--speed', 'fast'],
    status: 2,
    text: "option '--speed <size>' argument 'fast' is invalid. Expected a size such as 4096, 512k, 100M or 1.5G",
  },
  {
    name: 'a size beyond all files',
    args: ['create', 'a', '1E'],
    status: 2,
    text: "command-argument value '1E' is invalid for argument 'size'. Expected a size below 8 PiB",
  },
  {
    name: 'the same as an option of an image',
    args: ['create', 'a', '-o', 'size=8P'],
    status: 2,
    text: "'size' expects a size below 8 PiB, found '8P'",
  },
  { name: 'create without file', args: ['create'], status: 2, text: "missing required argument 'file'" },
  {
    name: 'convert without target',
    args: ['convert', 'a'],
    status: 2,
    text: "missing required argument 'target'",
  },
  {
    name: 'a format that is not there',
    args: ['mirror', 'a', 'b', '-O', 'vmdk'],
    status: 2,
    text: "option '-O, --target-format <format>' argument 'vmdk' is invalid. Allowed choices are raw, qcow2",
  },
  {
    name: 'engine of a foreign daemon',
    args: ['mirror', 'a', 'b', '--aio', 'threads', '--socket', '/s'],
    status: 2,
    text: "--aio is for the command's own daemon, not for the one at '/s'",
  },
  {
    name: 'check, whose 2 means corruptions',
    args: ['check', '--frob'],
    status: 1,
    text: "unknown option '--frob'",
  },
  {
    name: 'verify, whose 2 means damage',
    args: ['memory', 'verify'],
    status: 1,
    text: "missing required argument 'file'",
  },
  { name: 'job without verb', args: ['job'], status: 2, text: 'which verb? See job --help' },
  { name: 'job with an unknown verb', args: ['job', 'stop'], status: 2, text: "unknown verb 'stop'" },
  {
    name: 'job with an unknown verb and an id',
    args: ['job', 'stop', 'j0'],
    status: 2,
    text: "unknown verb 'stop'",
  },
  { name: 'job verb without id', args: ['job', 'pause'], status: 2, text: "missing required argument 'id'" },
  {
    name: 'an option that no node has',
    args: ['info', '--image-opts', 'driver=raw,ofset=1M,file.filename=a.raw'],
    status: 2,
    text: "--image-opts 'driver=raw,ofset=1M,file.filename=a.raw': Parameter 'ofset' is unexpected",
  },
  {
    name: 'an option that the node of the file does not have',
    args: ['convert', '--image-opts', 'driver=qcow2,file.filename=a,file.lockin=off', 'b'],
    status: 2,
    text: "--image-opts 'driver=qcow2,file.filename=a,file.lockin=off': Parameter 'file.lockin' is unexpected",
  },
  {
    name: 'an option that no file has, where one is missing',
    args: ['info', '--image-opts', 'driver=qcow2,file.filenam=x'],
    status: 2,
    text: "--image-opts 'driver=qcow2,file.filenam=x': Parameter 'file.filenam' is unexpected",
  },
  {
    name: 'an option in JSON that no node has, where one is missing',
    args: ['info', '--image-opts', '{"driver":"qcow2","fil":{"driver":"file"}}'],
    status: 2,
    text: `--image-opts '{"driver":"qcow2","fil":{"driver":"file"}}': Parameter 'fil' is unexpected`,
  },
  {
    name: 'an option that is missing',
    args: ['info', '--image-opts', 'driver=qcow2,lazy-refcounts=on'],
    status: 2,
    text: "--image-opts 'driver=qcow2,lazy-refcounts=on': Parameter 'file' is missing",
  },
  {
    name: 'an option that is no size',
    args: ['map', '--image-opts', 'offset=1Q,file.filename=a.raw'],
    status: 2,
    text: "--image-opts 'offset=1Q,file.filename=a.raw': Parameter 'offset' expects a non-negative number below 2^64",
  },
  {
    name: 'an option of an image in JSON that no node has',
    args: ['map', '--image-opts', '{"driver":"file","filename":"a","locks":1}'],
    status: 2,
    text: `--image-opts '{"driver":"file","filename":"a","locks":1}': Parameter 'locks' is unexpected`,
  },
  {
    name: 'two shapes of a map',
    args: ['map', '--json', '--output=human', 'a'],
    status: 2,
    text: '--json and --output=human exclude each other',
  },
  {
    name: 'qmp with bad JSON',
    args: ['qmp', 'x', '{"a" 1}'],
    status: 2,
    text: 'JSON parse error, missing : in object pair: {"a" 1}',
  },
  {
    name: 'qmp with a word that is no pair',
    args: ['qmp', 'x', 'y'],
    status: 2,
    text: "expected a JSON object or key=value, found 'y'",
  },
  {
    name: 'missing source',
    args: ['mirror', '/nonexistent/a', 'b'],
    status: 1,
    text: "cannot open '/nonexistent/a': No such file or directory",
  },
  {
    name: 'an empty name',
    args: ['mirror', '/nonexistent/a', ''],
    status: 2,
    text: 'an image needs a name, but one is empty',
  },
  {
    name: 'missing image',
    args: ['map', '/nonexistent/a'],
    status: 1,
    text: "cannot open '/nonexistent/a': No such file or directory",
  },
  {
    name: 'a folder as source',
    args: ['mirror', '/tmp', 'b'],
    status: 1,
    text: "cannot open '/tmp' as an image: it is a directory",
  },
  {
    name: 'a device that is no disk',
    args: ['mirror', '/dev/zero', 'b'],
    status: 1,
    text: "cannot open '/dev/zero' as an image: it is neither a file nor a block device",
  },
  {
    name: 'an address of no kind',
    args: ['memory', 'restore', 'a', 'b.sock'],
    status: 2,
    text: "an address is unix:PATH or tcp:HOST:PORT, found 'b.sock'",
  },
  {
    name: 'options of --qmp with --from',
    args: ['memory', 'save', '--from', 'unix:a.sock', '--live', 'b'],
    status: 2,
    text: '--live, --no-shared and --afterwards go with --qmp',
  },
  {
    name: 'a libvirt image without XML',
    args: ['memory', 'save', '--from', 'unix:a.sock', '--to', 'libvirt-raw', 'b'],
    status: 2,
    text: 'a libvirt-raw image needs the XML of its domain: --xml FILE',
  },
  {
    name: 'XML that is none',
    args: ['memory', 'convert', 'a', 'b', '--to', 'libvirt-raw', '--xml', '/proc/self/exe'],
    status: 1,
    text: "'/proc/self/exe' is not the XML of a domain: '<domain' is expected in it, in UTF-8",
  },
  {
    name: 'a paused guest without XML',
    args: ['memory', 'convert', 'a', 'b', '--paused'],
    status: 2,
    text: '--paused goes with --xml',
  },
  {
    name: 'no QEMU',
    args: ['memory', 'save', '--qmp', '/nonexistent/s', 'b'],
    status: 3,
    text: "cannot connect to '/nonexistent/s': no such socket; is QEMU running?",
  },
  {
    name: 'no socket',
    args: ['jobs', '--socket', '/nonexistent/s'],
    status: 3,
    text: "cannot connect to '/nonexistent/s': no such socket; is blockferryd running?",
  },
]

for (const { name, args, status, text } of refusals) {
  t.test(`refused: ${name}`, async (t) => {
    t.same(await run(args), { status, stdout: '', stderr: `blockferry: ${text}\n` })
  })
}

for (const what of ['pipe', 'socket'])
  t.test(`refused, with what is expected instead: a ${what}`, async (t) => {
    const path = join(shortFolder(t, { a: 'data' }), what)
    const image = join(path, '../a')
    if (what === 'pipe') t.equal(spawnSync('mkfifo', [path]).status, 0)
    else {
      const server = createServer()
      t.teardown(() => server.close())
      await new Promise<void>((resolve) => server.listen(path, resolve))
    }
    const stderr =
      `blockferry: cannot open '${path}' as an image: it is a ${what}, and an image is read and written ` +
      'at places, not from start to end; expected a file, block device or NBD URI\n'
    for (const args of [
      ['convert', '-O', 'raw', image, path],
      ['convert', path, image],
      ['mirror', image, path],
      ['info', path],
    ])
      t.same(await run(args), { status: 1, stdout: '', stderr }, args.join(' '))
  })

t.test('source and target that are one file are refused, through links too', async (t) => {
  const folder = t.testdir({ a: 'data', link: t.fixture('symlink', 'a') })
  const [a, link] = [join(folder, 'a'), join(folder, 'link')]
  t.same(await run(['mirror', a, link]), {
    status: 1,
    stdout: '',
    stderr: `blockferry: cannot copy '${a}' onto itself: '${link}' is the same file\n`,
  })
})

t.test('--json ends with a result also when no job came to be', async (t) => {
  const { status, stdout, stderr } = await run(['mirror', '/nonexistent/a', '/nonexistent/b', '--json'])
  t.equal(status, 1)
  const text = "cannot open '/nonexistent/a': No such file or directory"
  t.match(JSON.parse(stdout), {
    result: 'failed',
    source: '/nonexistent/a',
    target: '/nonexistent/b',
    error: text,
  })
  t.equal(stderr, `blockferry: ${text}\n`)
})

t.test('--existing asks for a target that is there', async (t) => {
  const folder = t.testdir({ a: 'data' })
  const target = join(folder, 'b')
  t.same(await run(['mirror', join(folder, 'a'), target, '--existing']), {
    status: 1,
    stdout: '',
    stderr: `blockferry: cannot open '${target}': No such file or directory\n`,
  })
})

t.test('a socket that nobody listens on is named', async (t) => {
  const path = join(shortFolder(t), 's')
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(path, resolve))
  // A killed server leaves its socket file behind; so does one that is closed after the file was moved away.
  renameSync(path, `${path}2`)
  await new Promise((resolve) => server.close(resolve))
  t.same(await run(['jobs'], { env: { BLOCKFERRY_SOCKET: `${path}2` } }), {
    status: 3,
    stdout: '',
    stderr: `blockferry: cannot connect to '${path}2': nobody listens on it; is blockferryd running?\n`,
  })
})

t.test('a check without its daemon is no leak', async (t) => {
  const image = join(shortFolder(t), 'a')
  writeFileSync(image, '')
  const { status, stderr } = await run(['check', image, '--socket', `${image}.sock`])
  t.equal(status, 1)
  t.match(stderr, `blockferry: cannot connect to '${image}.sock': `)
})

t.test('a file that is no socket is named', async (t) => {
  const path = join(shortFolder(t), 's')
  writeFileSync(path, '')
  const { status, stderr } = await run(['qmp', 'query-jobs', '--socket', path])
  t.equal(status, 3)
  t.match(stderr, `blockferry: cannot connect to '${path}': `)
})

t.test('help and version are no failures', async (t) => {
  const help = await run(['mirror', '--help'])
  t.equal(help.status, 0)
  t.match(help.stdout, /--on-target-error/)
  const manifest = readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8')
  const { version } = JSON.parse(manifest)
  t.same(await run(['version']), { status: 0, stdout: `blockferry ${version}\n`, stderr: '' })
  t.same(await run(['--version']), { status: 0, stdout: `blockferry ${version}\n`, stderr: '' })
})
