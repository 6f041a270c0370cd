// SPDX-License-Identifier: Apache-2.0
// The power is cut at every point of a workload on a qcow2 image, and any part of what was not flushed is lost: the image
// is whole but for leaks, what was flushed is there, and what was not is old or new, never something else. Prints its
// seed; SEED=n repeats it, ONLY=words chooses kinds of images, CRASH_ROUNDS=n runs more of them.

import t from 'tap'
import { newSeed } from '../../../../../helpers/graph.js'
import { kinds } from '../../../../../helpers/power-cut/kinds.js'
import { Lab } from '../../../../../helpers/power-cut/lab.js'
import { Scenario } from '../../../../../helpers/power-cut/scenario.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 1)
const ONLY = process.env.ONLY ?? ''
/** Cuts of one recording. */
const CUTS = 80

t.setTimeout((ROUNDS + 1) * 120_000)

for (const kind of kinds.filter(({ name }) => name.includes(ONLY))) {
  t.test(`a power cut leaves at most leaks and loses nothing flushed: ${kind.name}`, { skip }, async (t) => {
    const seed = newSeed()
    t.setTimeout(0)
    t.comment(`seed ${seed}`)
    const lab = new Lab(t)
    for (let round = 0; round < ROUNDS; round++) {
      const scenario = new Scenario(lab, t.testdir({}), kind, seed + round)
      await scenario.prepare()
      const { recording, workload } = await scenario.record()
      const faults = [...workload.faults]
      faults.push(...(await scenario.cuts(recording, CUTS, (point) => point % 20 === 0)))
      faults.push(...lab.corrupt.splice(0))
      if (faults.length > 0) t.fail(`SEED=${seed + round}: ${faults.join('; ')}`)
    }
    t.pass(`${ROUNDS} rounds`)
  })
}
