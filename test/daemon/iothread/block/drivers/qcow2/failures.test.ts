// SPDX-License-Identifier: Apache-2.0
// One request of a workload on a qcow2 image fails, having done all, some or none of its work: whoever asked learns of it,
// nothing is said to be durable after a failed flush, and whenever the power is cut then the image is whole but for leaks
// and what was flushed is there. Prints its seed; SEED=n repeats it, ONLY=words chooses kinds of images, CRASH_ROUNDS=n tries more requests.

import t from 'tap'
import { newSeed } from '../../../../../helpers/graph.js'
import { kinds } from '../../../../../helpers/power-cut/kinds.js'
import { Lab } from '../../../../../helpers/power-cut/lab.js'
import { Scenario } from '../../../../../helpers/power-cut/scenario.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 1)
const ONLY = process.env.ONLY ?? ''
/** Requests of one workload that are made to fail, each in a run of its own. */
const FAULTS = 12
/** Cuts of each run. */
const CUTS = 4

t.setTimeout((ROUNDS + 1) * 120_000)

for (const kind of kinds.filter(({ name }) => name.includes(ONLY))) {
  t.test(`a failed request leaves at most leaks and is told: ${kind.name}`, { skip }, async (t) => {
    const seed = newSeed()
    t.setTimeout(0)
    t.comment(`seed ${seed}`)
    const lab = new Lab(t)
    const scenario = new Scenario(lab, t.testdir({}), { ...kind, rounds: Math.ceil(kind.rounds / 3) }, seed)
    await scenario.prepare()
    const { recording: whole } = await scenario.record()
    const faults: string[] = []
    for (let run = 0; run < FAULTS * ROUNDS && faults.length === 0; run++) {
      const fault = 1 + scenario.below(whole.requests)
      const { recording, workload } = await scenario.record(fault)
      faults.push(...workload.faults, ...(await scenario.cuts(recording, CUTS, () => false)))
      if (recording.failed === 'flush' && workload.failures === 0) faults.push('nobody was told')
      faults.push(...lab.corrupt.splice(0))
      if (faults.length > 0)
        t.fail(`SEED=${seed}, run ${run}, request ${fault} (${recording.failed}): ${faults.join('; ')}`)
    }
    t.pass(`${FAULTS * ROUNDS} runs`)
  })
}
