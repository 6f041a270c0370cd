// SPDX-License-Identifier: Apache-2.0
// Which worker a set of graphs should share, and which of them move there. Pure; carried out by Graphs.
// Rules: a graph that is busy, or whose contents live in its worker's memory, stays where it is; idle ones come to
// it. So does, where nobody is busy, a graph that moves reluctantly. Else they meet in the first worker that no
// unconnected busy graph occupies, or in a new one, so that jobs on different disks do not share a thread.

export interface GraphView {
  /** A node of it, to name it by. */
  readonly name: string
  /** Name of its worker. */
  readonly worker: string
  /** It must not be closed and opened elsewhere now. */
  readonly fixed: boolean
  /** Moving it may fail: its storage may take one user at a time, and for a while there would be two. */
  readonly reluctant: boolean
  /** Another graph in its worker, none of those to be joined, is busy. */
  readonly crowded: boolean
}

export type Plan =
  /** `worker` undefined: a new one. `moves`: indices of the graphs that change their worker. */
  | { readonly kind: 'join'; readonly worker: string | undefined; readonly moves: readonly number[] }
  | { readonly kind: 'refused'; readonly first: string; readonly second: string }

export function planJoin(graphs: readonly GraphView[]): Plan {
  const fixed = graphs.filter((graph) => graph.fixed)
  const [first] = fixed
  const other = fixed.find((graph) => graph.worker !== first?.worker)
  if (first !== undefined && other !== undefined)
    return { kind: 'refused', first: first.name, second: other.name }
  const stays = first ?? graphs.find((graph) => graph.reluctant)
  const worker = stays?.worker ?? graphs.find((graph) => !graph.crowded)?.worker
  const moves = graphs.flatMap((graph, index) => (graph.worker === worker ? [] : [index]))
  return { kind: 'join', worker, moves }
}
