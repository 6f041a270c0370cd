// SPDX-License-Identifier: Apache-2.0
// The command with real daemons and real images: its own daemon, one on a socket, signals, and qemu-img as oracle.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { childrenOf } from '../../helpers/processes.js'
import { blockferryd, installed, start } from '../../helpers/program.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { deadline, pace } from '../../helpers/waiting.js'
import { run } from './run.js'

const MiB = 1048576

/** An image of `size` bytes with random data at the given offsets, 64 KiB each. */
function makeImage(path: string, size: number, places: readonly number[]): void {
  const file = openSync(path, 'w')
  ftruncateSync(file, size)
  for (const offset of places) writeSync(file, randomFillSync(Buffer.alloc(65536)), 0, 65536, offset)
  closeSync(file)
}

function hashOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

function twoImages(t: Test) {
  const folder = t.testdir({})
  const [source, target] = [join(folder, 'src.img'), join(folder, 'dst.img')]
  makeImage(source, 8 * MiB, [0, MiB, 5 * MiB + 65536])
  return { folder, source, target }
}

/** Waits for a state that gives no event. */
async function until(what: string, holds: () => boolean): Promise<void> {
  using clock = deadline(20_000)
  while (!holds()) {
    if (clock.over) throw new Error(`${what} did not come to be`)
    await pace(20)
  }
}

t.test('a mirror to a new file is equal, sparse, and tells what it did', async (t) => {
  const { source, target } = twoImages(t)
  const { status, stdout, stderr } = await run(['mirror', source, target])
  t.same({ status, stderr }, { status: 0, stderr: '' })
  t.match(stdout, /192 KiB copied, .* flushed\n$/)
  t.equal(hashOf(target), hashOf(source))
  t.ok(statSync(target).blocks <= statSync(source).blocks * 1.01, 'no more storage than the source')
})

t.test(
  'an image that another program writes to is refused',
  { skip: installed('qemu-io') ? false : 'no qemu-io' },
  async (t) => {
    const { source, target } = twoImages(t)
    const writer = spawn('qemu-io', ['-f', 'raw', source], { stdio: ['pipe', 'pipe', 'inherit'] })
    // It has the image open when it asks for a command.
    await new Promise((resolve) => writer.stdout.once('data', resolve))
    t.teardown(() => writer.stdin.end('quit\n'))
    t.same(await run(['mirror', source, target]), {
      status: 1,
      stdout: '',
      stderr: `blockferry: '${source}' is in use by another program: Failed to get shared "write" lock\n`,
    })
  },
)

t.test('a target that is larger and full of other data is overwritten', async (t) => {
  const { source, target } = twoImages(t)
  writeFileSync(target, Buffer.alloc(9 * MiB, 0x55))
  t.equal((await run(['mirror', source, target])).status, 0)
  t.equal(hashOf(target), hashOf(source))
})

t.test('--existing keeps the file, and its old data does not show through', async (t) => {
  const { source, target } = twoImages(t)
  writeFileSync(target, Buffer.alloc(8 * MiB, 0x55))
  const { ino } = statSync(target)
  const { status, stderr } = await run(['mirror', source, target, '--existing'])
  t.same({ status, stderr }, { status: 0, stderr: '' })
  t.equal(statSync(target).ino, ino)
  t.equal(hashOf(target), hashOf(source))
})

t.test('--existing with another size is refused with both sizes', async (t) => {
  const { source, target } = twoImages(t)
  writeFileSync(target, Buffer.alloc(MiB, 0x55))
  t.same(await run(['mirror', source, target, '--existing']), {
    status: 1,
    stdout: '',
    stderr:
      `blockferry: '${target}' has another size: ${MiB} bytes, ` +
      `'${source}' has ${8 * MiB} bytes (in whole sectors)\n`,
  })
  t.ok(readFileSync(target).every((byte) => byte === 0x55))
})

t.test('--json is one JSON value per line, the receipt last, and its bytes add up', async (t) => {
  const { source, target } = twoImages(t)
  const { status, stdout } = await run(['mirror', source, target, '--json', '--job-id', 'j1'])
  t.equal(status, 0)
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
  const told = lines.slice(0, -1).map((line) => line.data.status ?? line.event)
  t.same(told.slice(0, 2), ['created', 'running'])
  t.same(told.slice(-5), ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null'])
  const { result, receipt } = lines.at(-1)
  t.equal(result, 'completed')
  t.equal(receipt.flush, 'ok')
  t.equal(receipt['bytes-copied'] + receipt['bytes-zeroed'] + receipt['bytes-skipped'], 8 * MiB)
})

t.test('an empty image is mirrored', async (t) => {
  const folder = t.testdir({ 'src.img': '' })
  const target = join(folder, 'dst.img')
  const { status, stderr } = await run(['mirror', join(folder, 'src.img'), target])
  t.same({ status, stderr }, { status: 0, stderr: '' })
  t.equal(statSync(target).size, 0)
})

t.test('a target in a folder that is not there is refused by name', async (t) => {
  const { source, folder } = twoImages(t)
  const target = join(folder, 'no', 'dst.img')
  const { status, stderr } = await run(['mirror', source, target])
  t.equal(status, 1)
  t.equal(stderr, `blockferry: Could not create '${target}': No such file or directory\n`)
})

t.test('both engines make the same copy', async (t) => {
  for (const aio of ['threads', 'io_uring']) {
    const { source, target } = twoImages(t)
    const { status } = await run(['mirror', source, target, '--aio', aio])
    t.equal(status, 0, aio)
    t.equal(hashOf(target), hashOf(source), aio)
  }
})

t.test('^C ends a slow mirror with 130, names the state, and a rerun repairs', async (t) => {
  const { source, target } = twoImages(t)
  makeImage(
    source,
    8 * MiB,
    Array.from({ length: 128 }, (_, n) => n * 65536),
  )
  let child: ChildProcess | undefined
  const running = run(['mirror', source, target, '--speed', '64k', '--json'], {
    onStart: (started) => {
      child = started
      started.stdout?.on('data', (text: string) => {
        if (text.includes('"running"')) started.kill('SIGINT')
      })
    },
  })
  const { status, stderr, stdout } = await running
  t.equal(status, 130)
  t.match(stderr, `blockferry: mirror cancelled; '${target}' is incomplete: `)
  t.match(JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? ''), { result: 'cancelled' })
  t.equal(child?.exitCode, 130)
  t.equal((await run(['mirror', source, target])).status, 0)
  t.equal(hashOf(target), hashOf(source))
})

t.test('the daemon inside ends when the command is killed', async (t) => {
  const { source, target } = twoImages(t)
  makeImage(
    source,
    8 * MiB,
    Array.from({ length: 128 }, (_, n) => n * 65536),
  )
  let daemons: number[] = []
  const runtime = shortFolder(t)
  const env = { XDG_RUNTIME_DIR: runtime }
  await run(['mirror', source, target, '--speed', '64k', '--json'], {
    env,
    onStart: (child) => {
      child.stdout?.on('data', (text: string) => {
        if (!text.includes('"running"') || child.pid === undefined) return
        daemons = childrenOf(child.pid)
        child.kill('SIGKILL')
      })
    },
  })
  t.equal(daemons.length, 1)
  await until('the end of the daemon', () => !existsSync(`/proc/${daemons[0]}`))
  t.same(readdirSync(runtime), [], 'the folder of its socket is gone with it')
  t.equal((await run(['mirror', source, target])).status, 0, 'and its locks are gone')
})

t.test('the folder of the socket is private while the command runs, and gone after it', async (t) => {
  const { source, target } = twoImages(t)
  const runtime = shortFolder(t)
  let mode: number | undefined
  const { status } = await run(['mirror', source, target, '--json'], {
    env: { XDG_RUNTIME_DIR: runtime },
    onStart: (child) => {
      child.stdout?.once('data', () => {
        const [folder] = readdirSync(runtime)
        if (folder !== undefined) mode = statSync(join(runtime, folder)).mode & 0o777
      })
    },
  })
  t.equal(status, 0)
  t.equal(mode, 0o700)
  t.same(readdirSync(runtime), [])
})

const noDevices = fileSystemAbsent('ext4')

t.test('a device larger than the source keeps what lies behind', { skip: noDevices }, async (t) => {
  const { source, folder } = twoImages(t)
  const backing = join(folder, 'device.img')
  writeFileSync(backing, Buffer.alloc(9 * MiB, 0x55))
  const device = spawnSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).stdout.trim()
  t.teardown(() => spawnSync('losetup', ['-d', device]))
  const { status, stderr } = await run(['mirror', source, device])
  t.same({ status, stderr }, { status: 0, stderr: '' })
  const bytes = readFileSync(device)
  t.ok(bytes.subarray(0, 8 * MiB).equals(readFileSync(source)))
  t.ok(bytes.subarray(8 * MiB).every((byte) => byte === 0x55))
})

t.test('holes of the source are holes of the file under a loop device', { skip: noDevices }, async (t) => {
  const { source, folder } = twoImages(t)
  const backing = join(folder, 'device.img')
  writeFileSync(backing, Buffer.alloc(8 * MiB, 0x55))
  const device = spawnSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).stdout.trim()
  t.teardown(() => spawnSync('losetup', ['-d', device]))
  t.equal((await run(['mirror', source, device])).status, 0)
  t.equal(hashOf(backing), hashOf(source))
  t.ok(statSync(backing).blocks * 512 < MiB, 'what is zero takes up no storage')
})

t.test('a loop device and its own file are refused as one image', { skip: noDevices }, async (t) => {
  const { source } = twoImages(t)
  const before = hashOf(source)
  const device = spawnSync('losetup', ['-f', '--show', source], { encoding: 'utf8' }).stdout.trim()
  t.teardown(() => spawnSync('losetup', ['-d', device]))
  t.same(await run(['mirror', device, source]), {
    status: 1,
    stdout: '',
    stderr: `blockferry: cannot copy '${device}' onto itself: '${source}' is the same file\n`,
  })
  t.equal(hashOf(source), before)
})

t.test('a device smaller than the source is refused untouched', { skip: noDevices }, async (t) => {
  const { source, folder } = twoImages(t)
  const backing = join(folder, 'device.img')
  writeFileSync(backing, Buffer.alloc(4 * MiB, 0x55))
  const device = spawnSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).stdout.trim()
  t.teardown(() => spawnSync('losetup', ['-d', device]))
  t.same(await run(['mirror', source, device]), {
    status: 1,
    stdout: '',
    stderr: `blockferry: '${device}' is too small: ${4 * MiB} bytes, '${source}' has ${8 * MiB} bytes\n`,
  })
  t.ok(readFileSync(device).every((byte) => byte === 0x55))
})

t.test(
  'a file system without space fails the copy by name',
  { skip: fileSystemAbsent('tmpfs') },
  async (t) => {
    const { source, folder } = twoImages(t)
    makeImage(
      source,
      8 * MiB,
      Array.from({ length: 128 }, (_, n) => n * 65536),
    )
    using small = MountedImage.make(folder, 'tmpfs', 4 * MiB)
    const target = join(small.path, 'dst.img')
    const { status, stderr } = await run(['mirror', source, target])
    t.equal(status, 1)
    t.match(
      stderr,
      `blockferry: mirror of '${source}' failed: writing '${target}': No space left on device; '${target}' is incomplete`,
    )
  },
)

t.test(
  'a job that a full disk has paused goes on after room was made, by the line it told',
  { skip: fileSystemAbsent('tmpfs') },
  async (t) => {
    const { source, folder } = twoImages(t)
    makeImage(
      source,
      8 * MiB,
      Array.from({ length: 128 }, (_, n) => n * 65536),
    )
    using small = MountedImage.make(folder, 'tmpfs', 4 * MiB)
    const target = join(small.path, 'dst.img')
    let resumed: Promise<{ status: number | null }> | undefined
    const { status, stderr } = await run(['mirror', source, target, '--on-target-error', 'enospc'], {
      onStart: (child) => {
        let heard = ''
        child.stderr?.on('data', (text: string) => {
          heard += text
          const words = /go on with: blockferry (.*)\n/.exec(heard)?.[1]?.split(' ')
          if (words === undefined || resumed !== undefined) return
          small.resize(16 * MiB)
          resumed = run(words)
        })
      },
    })
    t.match(stderr, `blockferry: paused by no space left on '${target}'; go on with: blockferry job resume `)
    t.equal((await resumed)?.status, 0)
    t.equal(status, 0)
    t.equal(hashOf(target), hashOf(source))
  },
)

t.test(
  'map tells what qemu-img map tells',
  { skip: installed('qemu-img') ? false : 'no qemu-img' },
  async (t) => {
    const { source } = twoImages(t)
    // The last sector is not whole.
    truncateSync(source, 8 * MiB - 100)
    const oracle = spawnSync('qemu-img', ['map', '-f', 'raw', '--output=json', source], { encoding: 'utf8' })
    const { status, stdout, stderr } = await run(['map', source, '--json'])
    t.same({ status, stderr }, { status: 0, stderr: '' })
    const ours: Record<string, unknown>[] = JSON.parse(stdout)
    const theirs: Record<string, unknown>[] = JSON.parse(oracle.stdout)
    const named = ({ start, length, depth, zero, data, present, offset }: Record<string, unknown>) => ({
      start,
      length,
      depth,
      zero,
      data,
      present,
      offset,
    })
    t.same(ours.map(named), theirs.map(named))
    const human = spawnSync('qemu-img', ['map', '-f', 'raw', source], { encoding: 'utf8' })
    t.equal((await run(['map', source])).stdout, human.stdout)
  },
)

t.test('a daemon on a socket: mirror, list, steer, and nothing is left behind', async (t) => {
  const { source, target } = twoImages(t)
  makeImage(
    source,
    8 * MiB,
    Array.from({ length: 128 }, (_, n) => n * 65536),
  )
  const folder = shortFolder(t)
  const socket = join(folder, 's')
  const daemon = start([...blockferryd.command(folder), '--socket', socket])
  t.teardown(() => daemon.stop())
  await until('the socket', () => existsSync(socket))
  const env = { BLOCKFERRY_SOCKET: socket }
  const mirror = run(['mirror', source, target, '--socket', socket, '--speed', '64k', '--job-id', 'm0'])
  const list = async () => JSON.parse((await run(['jobs', '--json'], { env })).stdout)
  let jobs: { id: string; status: string }[] = []
  while (!jobs.some((job) => job.status === 'running')) jobs = await list()
  t.match(jobs, [{ id: 'm0', type: 'mirror' }])
  t.equal((await run(['job', 'pause', 'm0'], { env })).status, 0)
  while (jobs[0]?.status !== 'paused') jobs = await list()
  t.equal((await run(['job', 'set-speed', 'm0', '0'], { env })).status, 0)
  t.equal((await run(['job', 'resume', 'm0'], { env })).status, 0)
  t.equal((await mirror).status, 0)
  t.equal(hashOf(target), hashOf(source))
  t.same(await list(), [])
  const nodes = await run(['qmp', 'query-named-block-nodes'], { env })
  t.equal(nodes.stdout, '[]\n')
})

t.test('a source that is not a multiple of a sector is mirrored byte for byte', async (t) => {
  const { source, target } = twoImages(t)
  truncateSync(source, 8 * MiB - 100)
  t.equal((await run(['mirror', source, target])).status, 0)
  const bytes = readFileSync(target)
  t.ok(bytes.subarray(0, 8 * MiB - 100).equals(readFileSync(source)))
  t.ok(
    bytes.subarray(8 * MiB - 100).every((byte) => byte === 0),
    'the rest of the last sector is zero',
  )
})

t.test(
  '-U reads a source that another program may write',
  { skip: installed('qemu-io') ? false : 'no qemu-io' },
  async (t) => {
    const { source, target } = twoImages(t)
    const writer = spawn('qemu-io', ['-f', 'raw', source], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(writer, 'exit')
    t.teardown(async () => {
      writer.stdin.end()
      await ended
    })
    await once(writer.stdout, 'data') // its prompt: the image is open and locked
    t.equal((await run(['mirror', source, target, '-U'])).status, 0)
    t.equal(hashOf(target), hashOf(source))
  },
)
