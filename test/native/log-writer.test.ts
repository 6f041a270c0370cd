// SPDX-License-Identifier: Apache-2.0
// The log writer in front of a file, and in front of a reader that has stopped.

import { spawn, spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { LogWriter } from '../../native/log-writer.js'
import { installed } from '../helpers/program.js'
import { within } from '../helpers/waiting.js'

const noFifo = installed('mkfifo') ? false : 'no mkfifo'

t.test('what is written arrives in order', async (t) => {
  const path = join(t.testdir(), 'log')
  const fd = openSync(path, 'w')
  const log = new LogWriter(fd)
  const lines = Array.from({ length: 2000 }, (_, index) => `line ${index} ü\n`)
  t.ok(lines.every((line) => log.write(line)))
  t.ok(log.flushSync(10_000))
  t.equal(readFileSync(path, 'utf8'), lines.join(''))
  t.equal(log.dropped(), 0)
  closeSync(fd)
})

t.test('a stopped reader costs texts and never waiting', { skip: noFifo }, async (t) => {
  const path = join(t.testdir(), 'fifo')
  spawnSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDWR) // does not wait for the other side
  const fd = openSync(path, constants.O_WRONLY)
  const log = new LogWriter(fd, 300_000)
  const text = `${'x'.repeat(9999)}\n`
  let kept = 0
  for (let number = 0; number < 100; number++) if (log.write(text)) kept++
  t.equal(log.dropped(), 100 - kept)
  t.ok(kept >= 30 && kept < 100, `${kept} kept`)
  t.notOk(log.flushSync(10), 'not all is written')
  const into = Buffer.alloc(1 << 20)
  let arrived = 0
  while (arrived < kept * text.length) arrived += readSync(reader, into, 0, into.length, null)
  t.ok(log.flushSync(10_000), 'the rest is, when it is read again')
  t.equal(arrived, kept * text.length)
  closeSync(fd)
  closeSync(reader)
})

t.test('the descriptor keeps its flags', async (t) => {
  const path = join(t.testdir(), 'log')
  const fd = openSync(path, 'w')
  const flags = () => /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1]
  const before = flags()
  const log = new LogWriter(fd)
  log.write('x')
  log.flushSync(10_000)
  t.equal(flags(), before)
  closeSync(fd)
})

t.test('a process whose stderr nobody reads can end', async (t) => {
  const script = `
    import { LogWriter } from ${JSON.stringify(new URL('../../native/log-writer.js', import.meta.url).href)}
    const log = new LogWriter(2)
    for (let number = 0; number < 200; number++) log.write('y'.repeat(10_000))
    log.flushSync(10)
    process.exit(log.dropped() > 0 ? 4 : 5)
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exit = new Promise((resolve) => child.once('exit', resolve))
  t.equal(await within(exit, 20_000, 'exit'), 4)
  child.stderr.destroy()
})
