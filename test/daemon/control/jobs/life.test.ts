// SPDX-License-Identifier: Apache-2.0
// The job tables against a model written as the reference states them: a verb matrix and an edge list.

import fc from 'fast-check'
import t from 'tap'
import {
  accepts,
  isOver,
  type JobState,
  type JobVerb,
  mayFollow,
  refusal,
} from '../../../../daemon/control/jobs/life.js'

const states = (
  'created running paused ready standby waiting pending aborting concluded null'.split(' ') as JobState[]
).slice()
const verbs = 'cancel pause resume set-speed change complete finalize dismiss'.split(' ') as JobVerb[]

// One line per verb, one column per state in the order above.
const matrix = `
  cancel    x x x x x x x - - -
  pause     x x x x x - - - - -
  resume    x x x x x - - - - -
  set-speed x x x x x - - - - -
  change    x x x x x - - - - -
  complete  - - - x x - - - - -
  finalize  - - - - - - x - - -
  dismiss   - - - - - - - - x -`

const edges = `created>running created>aborting created>null running>paused running>ready running>waiting
  running>aborting paused>running ready>standby ready>waiting ready>aborting standby>ready waiting>pending
  waiting>aborting pending>aborting pending>concluded aborting>concluded concluded>null`.split(/\s+/)

t.test('every state accepts the verbs of the reference and no other', async (t) => {
  for (const line of matrix.trim().split('\n')) {
    const [verb, ...marks] = line.trim().split(/\s+/)
    states.forEach((state, column) => {
      t.equal(accepts(state, verb as JobVerb), marks[column] === 'x', `${verb} in ${state}`)
    })
  }
})

t.test('every pair of states may follow each other only along an edge of the reference', async (t) => {
  for (const from of states)
    for (const to of states) t.equal(mayFollow(from, to), edges.includes(`${from}>${to}`), `${from}>${to}`)
})

t.test('a walk along the edges always can reach null, and only once the job is over', async (t) => {
  const seed = Date.now()
  t.comment(`seed ${seed}`)
  fc.assert(
    fc.property(fc.array(fc.nat(), { maxLength: 40 }), (choices) => {
      let state: JobState = 'created'
      for (const choice of choices) {
        const next: JobState[] = states.filter((to) => mayFollow(state, to))
        if (next.length === 0) return state === 'null'
        const to: JobState = next[choice % next.length] ?? 'null'
        if (to === 'null' && state !== 'created' && !isOver(state)) return false
        state = to
      }
      return state === 'null' || states.some((to) => mayFollow(state, to))
    }),
    { seed },
  )
})

t.test('a refusal names the job, its state and the verb', async (t) => {
  t.equal(refusal('j', 'ready', 'dismiss'), "Job 'j' in state 'ready' cannot accept command verb 'dismiss'")
  t.ok(verbs.every((verb) => !accepts('null', verb)))
})
