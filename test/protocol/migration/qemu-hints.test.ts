// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { type HintFacts, qemuHints } from '../../../protocol/migration/qemu-hints.js'

const plain = { pageBits: undefined, capabilities: undefined, uuid: undefined }
const facts = (machine: string, more: Partial<HintFacts> = {}): HintFacts => ({
  ...{ configuration: { ...plain, machine }, commands: [], syncPerWalk: false },
  ...more,
})

const cases: { name: string; facts: HintFacts; versions: string[] }[] = [
  { name: 'a versioned machine', facts: facts('pc-i440fx-7.2'), versions: ['7.2'] },
  { name: 'a machine without a version', facts: facts('microvm'), versions: [] },
  { name: 'one of a distribution', facts: facts('pc-q35-rhel9.4.0'), versions: [] },
  {
    name: 'an old machine of a new QEMU',
    facts: facts('pc-q35-7.2', {
      configuration: { ...plain, machine: 'pc-q35-7.2', capabilities: ['mapped-ram'] },
      syncPerWalk: true,
    }),
    versions: ['9.0', '8.1', '7.2'],
  },
  {
    name: 'a command of new machines',
    facts: facts('virt', { commands: ['SWITCHOVER_START'] }),
    versions: ['10.0'],
  },
]
for (const { name, facts, versions } of cases) {
  t.test(`the strongest hint comes first: ${name}`, async (t) => {
    t.same(
      qemuHints(facts).map(({ atLeast }) => atLeast),
      versions,
    )
  })
}
