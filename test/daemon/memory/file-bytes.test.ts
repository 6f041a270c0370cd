// SPDX-License-Identifier: Apache-2.0
// How a file of memory is read: from the page cache where most of it is, else past it, unless it was said.

import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FileBytes } from '../../../daemon/memory/file-bytes.js'
import type { DirectReading } from '../../../daemon/memory/messages.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { createEngine } from '../../../native/engine.js'
import type { IoEngine } from '../../../native/types.js'

const MIB = 1024 * 1024
const ENOSYS = -38

/** The same engine; each open for reading is recorded. */
function watched(engine: IoEngine, opened: boolean[]): IoEngine {
  return new Proxy(engine, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      if (name !== 'open') return value.bind(target)
      return (...args: Parameters<IoEngine['open']>) => {
        opened.push(args[1].direct === true)
        return target.open(...args)
      }
    },
  })
}

async function opens(t: Test, path: string, direct: DirectReading): Promise<boolean[]> {
  const engine = createEngine({ aio: 'threads', slotSize: MIB, maxSlots: 16 })
  t.teardown(() => engine.shutdown(5000))
  const opened: boolean[] = []
  const slots = new Slots(watched(engine, opened), 16)
  const file = await FileBytes.open(slots, { kind: 'path', path }, direct, () => undefined)
  t.equal(Buffer.from(await file.bytes(5 * MIB, 3)).toString(), 'sea', 'its bytes are read')
  await file.close()
  return opened
}

/** Writes a file out and drops it from the page cache. */
function drop(path: string): void {
  spawnSync('sync', [path])
  spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

async function tells(t: Test, path: string): Promise<number> {
  const engine = createEngine({ aio: 'threads', slotSize: MIB, maxSlots: 16 })
  t.teardown(() => engine.shutdown(5000))
  const file = await engine.open(path, { write: false })
  const cached = await engine.cached(file)
  await engine.close(file)
  return cached
}

t.test('a file is read from where it is', async (t) => {
  const path = join(t.testdir(), 'memory')
  const bytes = Buffer.alloc(8 * MIB, 7)
  bytes.write('sea', 5 * MIB)
  writeFileSync(path, bytes)
  const written = await tells(t, path)
  if (written === ENOSYS) return t.comment('a kernel without cachestat')
  t.equal(written, 8 * MIB, 'what was just written is in the page cache')
  t.same(await opens(t, path, 'unless-cached'), [false])
  t.same(await opens(t, path, true), [true], 'past the cache where that is said')
  drop(path)
  if ((await tells(t, path)) === 8 * MIB) return t.comment('a file system that is the page cache')
  t.same(await opens(t, path, 'unless-cached'), [false, true], 'past the cache when it is not in there')
  t.same(await opens(t, path, false), [false], 'through the cache where that is said')
})
