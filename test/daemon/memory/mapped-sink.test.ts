// SPDX-License-Identifier: Apache-2.0
// A mapped-ram file while it is being written.

import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { ImageHead } from '../../../daemon/memory/image.js'
import { MappedSink } from '../../../daemon/memory/mapped-sink.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { TargetFile } from '../../../daemon/memory/target-file.js'
import { createEngine } from '../../../native/engine.js'

const MIB = 2 ** 20
const HEAD: ImageHead = {
  configuration: { machine: 'pc-q35-10.0', pageBits: undefined, capabilities: undefined, uuid: undefined },
  pageSize: 4096,
  section: 1,
  blocks: [{ name: 'pc.ram', length: 64 * MIB }],
  syncPerWalk: true,
}

t.test('past the page cache no write of pages makes the file longer', async (t) => {
  const engine = createEngine({ aio: 'threads', maxSlots: 16 })
  t.teardown(() => engine.shutdown(5000))
  const folder = t.testdir({})
  const slots = new Slots(engine, 16)
  const place = { kind: 'path', path: join(folder, 'image') } as const
  const target = await TargetFile.open({
    ...{ slots, place, offset: 0, direct: true, flush: 'none' },
    ...{ companion: undefined, source: undefined, fdTaken: () => {} },
  })
  const facts = await engine.stat(target.file)
  const sink = new MappedSink({ slots, target, offset: 0, channels: 4, front: new Uint8Array() })
  const [block] = await sink.begin(HEAD)
  const passing = readdirSync(folder)[0] ?? ''
  const { size, blocks } = statSync(join(folder, passing))
  await sink.abort()
  t.same(readdirSync(folder), [])
  if (typeof facts === 'number' || !facts.direct) {
    t.pass('no O_DIRECT here')
    return
  }
  t.equal(size, (block?.place ?? 0) + 64 * MIB)
  t.ok(blocks * 512 < MIB, 'and it is sparse')
})
