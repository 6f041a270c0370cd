// SPDX-License-Identifier: Apache-2.0
// Storage that fails or hangs under the target or the source: the transfer ends with one error that names the file, and under
// the target's name, and beside it, there is nothing. Delays here are longer than any test waits.

import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { unpack } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { type Rule, SlowFs, slowfsAbsent } from '../../helpers/slowfs.js'
import { within } from '../../helpers/waiting.js'
import { attempt, HANG_MS, traces } from './attempt.js'
import { type FileSink, fileSink, fileSource, spec, Worker } from './worker.js'

const MIB = 2 ** 20
const FOREVER_MS = 20 * HANG_MS
/** Longer than a transfer waits for storage when it is given up. */
const LATE_MS = 2500
const STREAM = 'q10-pc-q35-10.0-live.stream'
const MAPPED = 'q10-pc-q35-10.0-stopped.mapped'
const domain = { xml: '<domain/>', running: true }
const formats = ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'] as const
const skip = slowfsAbsent()

/** A mount with nothing wrong yet, and a source beside it. */
async function lab(t: Test, recording = STREAM) {
  const folder = mkdtempSync(join(tmpdir(), 'bf-'))
  const slow = await SlowFs.mount(folder)
  let mounted = true
  const unmount = async () => {
    if (mounted) await slow.unmount()
    mounted = false
  }
  t.teardown(async () => {
    await unmount()
    rmSync(folder, { recursive: true, force: true })
  })
  const source = join(folder, 'source')
  writeFileSync(source, unpack(recording))
  const sink = (format: FileSink['format'], more: Partial<FileSink> = {}) =>
    fileSink(join(slow.mount, 'target'), format, format.startsWith('libvirt') ? { domain, ...more } : more)
  return { folder, slow, unmount, source, sink, left: () => traces(slow.files, 'target') }
}

interface Fault {
  readonly name: string
  readonly rules: readonly Rule[]
  readonly error: RegExp
}

const faults: readonly Fault[] = [
  {
    name: 'an open that fails',
    rules: [{ op: 'open', delayMs: 0, error: 'EIO' }],
    error: /^refused: Could not (create|open) '.*target': Input\/output error/,
  },
  {
    name: 'a full disk at the first write',
    rules: [{ op: 'write', delayMs: 0, error: 'ENOSPC' }],
    error: /cannot write '.*target': No space left/i,
  },
  ...[1, 2, 3].map((after) => ({
    name: `a full disk after ${after} writes`,
    rules: [{ op: 'write', delayMs: 0, error: 'ENOSPC', after } as const],
    error: /cannot write '.*target': No space left/i,
  })),
  {
    name: 'a write that fails',
    rules: [{ op: 'write', delayMs: 0, error: 'EIO', after: 2 }],
    error: /cannot write '.*target': Input\/output error/,
  },
  {
    name: 'a flush that fails',
    rules: [{ op: 'fsync', delayMs: 0, error: 'EIO' }],
    error: /cannot flush '.*target': Input\/output error/,
  },
  {
    name: 'a rename that fails',
    rules: [{ op: 'rename', delayMs: 0, error: 'EIO' }],
    error: /cannot rename '.*target': Input\/output error/,
  },
  {
    name: 'a flush of the folder that fails',
    rules: [{ op: 'fsyncdir', delayMs: 0, error: 'EIO' }],
    error: /cannot flush '.*target': Input\/output error/,
  },
]

for (const { name, rules, error } of faults)
  t.test(`nothing is left of a target after ${name}`, { skip }, async (t) => {
    for (const format of formats) {
      const { slow, source, sink, left } = await lab(t)
      slow.rules(...rules)
      t.match(await attempt(spec(fileSource(source), sink(format))), error, format)
      slow.rules()
      t.same(left(), [], format)
    }
  })

t.test('a target that failed leaves the file whose name it wanted as it was', { skip }, async (t) => {
  const { slow, source, sink, left } = await lab(t)
  for (const { name, rules, error } of faults.filter(({ name }) => !/folder/.test(name))) {
    writeFileSync(join(slow.files, 'target'), 'an older image')
    slow.rules(...rules)
    t.match(await attempt(spec(fileSource(source), sink('mapped-ram'))), error, name)
    slow.rules()
    t.same(left(), ['target'], name)
  }
})

t.test(
  'an image that took the place of another stays when its folder cannot be flushed',
  { skip },
  async (t) => {
    const { slow, source, sink } = await lab(t)
    const target = join(slow.files, 'target')
    writeFileSync(target, 'what was there before')
    slow.rules({ op: 'fsyncdir', delayMs: 0, error: 'EIO' })
    const said = await attempt(spec(fileSource(source), sink('mapped-ram')))
    t.match(said, /cannot flush '.*target': Input\/output error/)
    const { blocks } = new Replay(readFileSync(target))
    t.ok(blocks.length > 0, 'one of both is there, and whole')
  },
)

t.test('a file made in place is no image when its folder cannot be flushed', { skip }, async (t) => {
  const { slow, source, sink } = await lab(t)
  slow.rules({ op: 'fsyncdir', delayMs: 0, error: 'EIO' })
  const said = await attempt(spec(fileSource(source), sink('mapped-ram', { offset: 777 })))
  t.match(said, /cannot flush '.*target': Input\/output error/)
  t.equal(statSync(join(slow.files, 'target')).size, 777)
  slow.rules()
})

for (const format of ['stream', 'mapped-ram'] as const)
  for (const rule of [
    { op: 'write', delayMs: 0, error: 'ENOSPC', after: 1 },
    { op: 'write', delayMs: 0, error: 'EIO', after: 3 },
    { op: 'fsync', delayMs: 0, error: 'EIO' },
    { op: 'fsync', delayMs: 0, error: 'EIO', after: 1 },
  ] as const)
    t.test(
      `${rule.error} of a ${rule.op} leaves what is in front of ${format} in its file, and no more`,
      { skip },
      async (t) => {
        const { slow, source, sink, left } = await lab(t)
        const front = Buffer.alloc(4096, 'front')
        const file = join(slow.files, 'target')
        writeFileSync(file, Buffer.concat([front, Buffer.alloc(MIB, 'old')]))
        slow.rules(rule)
        const error = await attempt(spec(fileSource(source), sink(format, { offset: front.length })))
        slow.rules()
        t.match(error, /^cannot (write|flush) '.*target': /)
        t.same(left(), ['target'])
        t.ok(readFileSync(file).equals(front))
      },
    )

for (const op of ['write', 'fsync', 'rename', 'fsyncdir'] as const)
  for (const format of ['stream', 'mapped-ram'] as const)
    t.test(`a transfer to ${format} is cancelled although a ${op} hangs`, { skip }, async (t) => {
      const { slow, unmount, source, sink } = await lab(t)
      slow.rules({ op, delayMs: FOREVER_MS, after: op === 'write' ? 1 : 0 })
      const worker = new Worker(t)
      await worker.start(spec(fileSource(source), sink(format)))
      await stuck(worker)
      await worker.cancel()
      const { outcome } = await within(worker.ended(), HANG_MS, 'the end')
      t.same(outcome, { kind: 'cancelled' })
      // A folder that is being flushed may keep its names, but what they lead to is no image.
      const target = join(slow.files, 'target')
      if (existsSync(target)) t.match({ op, size: statSync(target).size }, { op: 'fsyncdir', size: 0 })
      await unmount()
    })

for (const op of ['write', 'fsync', 'rename', 'fsyncdir'] as const)
  t.test(
    `a cancelled transfer has no target when a slow ${op} comes to its end later`,
    { skip },
    async (t) => {
      const { slow, source, sink, left } = await lab(t)
      slow.rules({ op, delayMs: LATE_MS, after: op === 'write' ? 1 : 0 })
      const worker = new Worker(t)
      await worker.start(spec(fileSource(source), sink('mapped-ram')))
      await stuck(worker)
      await worker.cancel()
      t.same((await within(worker.ended(), HANG_MS, 'the end')).outcome, { kind: 'cancelled' })
      slow.rules()
      t.equal(await worker.end(HANG_MS), 0)
      t.same(left(), [])
    },
  )

t.test(
  'a transfer cancelled while its target is opened has none when that comes to its end',
  { skip },
  async (t) => {
    const { slow, source, sink, left } = await lab(t)
    slow.rules({ op: 'open', delayMs: LATE_MS })
    const worker = new Worker(t)
    await worker.request('job-start', {
      id: 'job',
      spec: { ...spec(fileSource(source), sink('mapped-ram')), sink: { kind: 'later' } },
    })
    const refused = worker.request('set-sink', { sink: sink('mapped-ram') }).catch(() => 'refused')
    await stuck(worker)
    await worker.cancel()
    t.same((await within(worker.ended(), HANG_MS, 'the end')).outcome, { kind: 'cancelled' })
    slow.rules()
    t.equal(await worker.end(HANG_MS), 0)
    t.equal(await refused, 'refused')
    t.same(left(), [])
  },
)

t.test('a slow disk only takes its time', { skip }, async (t) => {
  const { slow, source, sink } = await lab(t)
  for (const format of formats) {
    slow.rules({ op: 'write', delayMs: 5 }, { op: 'fsync', delayMs: 50 }, { op: 'open', delayMs: 50 })
    t.equal(await attempt(spec(fileSource(source), sink(format))), undefined, format)
  }
})

for (const recording of [STREAM, MAPPED])
  t.test(`a read of ${recording} that fails is named, with the file`, { skip }, async (t) => {
    for (const after of [0, 1, 2, 5]) {
      const { folder, slow } = await lab(t)
      const [source, target] = [join(slow.mount, 'source'), join(folder, 'target')]
      writeFileSync(join(slow.files, 'source'), unpack(recording))
      slow.rules({ op: 'read', delayMs: 0, error: 'EIO', after })
      const error = await attempt(spec(fileSource(source), fileSink(target, 'mapped-ram')))
      slow.rules()
      t.match(error, /cannot read '.*source': Input\/output error/, `after ${after} reads`)
      t.same(traces(folder, 'target'), [])
    }
  })

t.test('a real disk that is full leaves nothing', { skip: fileSystemAbsent('tmpfs') }, async (t) => {
  const folder = t.testdir()
  const source = join(folder, 'source')
  writeFileSync(source, unpack(STREAM))
  using disk = MountedImage.make(folder, 'tmpfs', MIB)
  for (const format of formats) {
    const sink = fileSink(join(disk.path, 'target'), format, format.startsWith('libvirt') ? { domain } : {})
    t.match(await attempt(spec(fileSource(source), sink)), /cannot write '.*target': No space left/i, format)
    t.same(traces(disk.path, 'target'), [], format)
  }
})

/** A call of the file system has not come back for a while. */
async function stuck(worker: Worker): Promise<void> {
  await worker.until(
    (report) =>
      report.kind === 'job-progress' &&
      report.progress.oldest !== undefined &&
      report.progress.oldest.ageMs > 300,
  )
}
