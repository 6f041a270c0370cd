// SPDX-License-Identifier: Apache-2.0
// What an extent query costs: on a fragmented file every SEEK_DATA or SEEK_HOLE can be a walk over all that follows.

import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { installed } from '../helpers/program.js'

const noStrace = installed('strace', '-V') ? false : 'no strace'

for (const { name, step, limit } of [
  { name: 'in one call', step: 1 << 30, limit: 10_000 },
  { name: 'one extent a call', step: 1 << 30, limit: 1 },
  { name: 'in windows of 1 MiB', step: 1 << 20, limit: 1000 },
]) {
  t.test(`a pass ${name} asks at most two questions per data extent`, { skip: noStrace }, async (t) => {
    const folder = t.testdir()
    const image = join(folder, 'disk.img')
    const fd = openSync(image, 'w')
    const extents = 100
    for (let index = 0; index < extents; index++) writeSync(fd, 'x', index * 2 * 65_536 + 65_536)
    closeSync(fd)
    const script = `
      import { createEngine } from ${JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)}
      const engine = createEngine({ aio: 'threads' })
      const file = await engine.open(${JSON.stringify(image)}, { write: false })
      const { size } = await engine.stat(file)
      let data = 0
      for (let at = 0; at < size; ) {
        const list = await engine.extents(file, at, ${step}, ${limit})
        for (let index = 0; index < list.length; index += 3) {
          at = list[index] + list[index + 1]
          data += list[index + 2]
        }
      }
      await engine.shutdown(1000)
      process.exitCode = data === ${extents} ? 0 : 1
    `
    const log = join(folder, 'calls')
    const command = [process.execPath, '--input-type=module', '-e', script]
    const { status } = spawnSync('strace', ['-f', '-qq', '-e', 'trace=lseek', '-o', log, ...command])
    t.equal(status, 0, `${extents} data extents are found`)
    const calls = readFileSync(log, 'utf8').match(/SEEK_(DATA|HOLE)/g)?.length ?? 0
    t.ok(calls <= 2 * extents + 2, `${calls} calls`)
  })
}
