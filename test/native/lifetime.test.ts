// SPDX-License-Identifier: Apache-2.0
// What an engine that has ended leaves behind: nothing.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import { kinds } from './kinds.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

for (const { aio, absent } of kinds) {
  t.test(`${aio}: engines that were used and ended are collected`, { skip: absent }, async (t) => {
    const used = async () => {
      const engine = createEngine({ aio })
      const file = await engine.open(t.testdirName, { write: false, directory: true })
      await engine.stat(file)
      await engine.shutdown(1000)
      return new WeakRef(engine)
    }
    t.testdir()
    const engines = [await used(), await used(), await used()]
    for (let round = 0; round < 1000 && engines.some((engine) => engine.deref()); round++) {
      await new Promise((resolve) => setImmediate(resolve))
      collect()
    }
    t.same(
      engines.map((engine) => engine.deref()),
      [undefined, undefined, undefined],
    )
  })
}
