// SPDX-License-Identifier: Apache-2.0
// Which worker graphs meet in: the rules one by one, then random cases against them.

import fc from 'fast-check'
import t from 'tap'
import { type GraphView, planJoin } from '../../../daemon/control/placement.js'

const graph = (name: string, worker: string, marks = ''): GraphView => ({
  name,
  worker,
  fixed: marks.includes('fixed'),
  reluctant: marks.includes('reluctant'),
  crowded: marks.includes('crowded'),
})

const cases = [
  {
    name: 'an idle target comes to the source',
    graphs: [graph('s', 'a'), graph('t', 'b')],
    worker: 'a',
    moves: [1],
  },
  {
    name: 'an idle source comes to a busy target',
    graphs: [graph('s', 'a'), graph('t', 'b', 'fixed')],
    worker: 'b',
    moves: [0],
  },
  {
    name: 'an idle source comes to a target that moves reluctantly',
    graphs: [graph('s', 'a'), graph('t', 'b', 'reluctant')],
    worker: 'b',
    moves: [0],
  },
  {
    name: 'a target that moves reluctantly comes to a busy source',
    graphs: [graph('s', 'a', 'fixed'), graph('t', 'b', 'reluctant')],
    worker: 'a',
    moves: [1],
  },
  {
    name: 'together already, nothing moves',
    graphs: [graph('s', 'a'), graph('t', 'a')],
    worker: 'a',
    moves: [],
  },
  {
    name: 'a crowded worker is left',
    graphs: [graph('s', 'a', 'crowded'), graph('t', 'b')],
    worker: 'b',
    moves: [0],
  },
  {
    name: 'two crowded workers are left for a new one',
    graphs: [graph('s', 'a', 'crowded'), graph('t', 'a', 'crowded')],
    worker: undefined,
    moves: [0, 1],
  },
  {
    name: 'a busy graph stays even where it is crowded',
    graphs: [graph('s', 'a', 'fixed crowded'), graph('t', 'b')],
    worker: 'a',
    moves: [1],
  },
]

for (const { name, graphs, worker, moves } of cases)
  t.test(name, async (t) => {
    t.same(planJoin(graphs), { kind: 'join', worker, moves })
  })

t.test('two busy graphs in two workers are refused by name', async (t) => {
  t.same(planJoin([graph('s', 'a', 'fixed'), graph('t', 'b', 'fixed')]), {
    kind: 'refused',
    first: 's',
    second: 't',
  })
})

t.test('no plan moves a fixed graph or leaves one behind', async (t) => {
  const seed = Date.now()
  t.comment(`seed ${seed}`)
  const view = fc.record({
    name: fc.string(),
    worker: fc.constantFrom('a', 'b', 'c'),
    fixed: fc.boolean(),
    reluctant: fc.boolean(),
    crowded: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(view, { minLength: 1, maxLength: 4 }), (graphs) => {
      const plan = planJoin(graphs)
      const homes = new Set(graphs.filter((graph) => graph.fixed).map((graph) => graph.worker))
      if (plan.kind === 'refused') return homes.size > 1
      return graphs.every((graph, index) =>
        plan.moves.includes(index)
          ? !graph.fixed && graph.worker !== plan.worker
          : graph.worker === plan.worker,
      )
    }),
    { seed },
  )
})
