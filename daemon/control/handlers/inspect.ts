// SPDX-License-Identifier: Apache-2.0
// x-bench and x-compare: jobs that use nodes as they are, and change no graph. The nodes are claimed before the first
// wait and brought into one worker.

import { CommandError } from '../../errors.js'
import type { JobSpec } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import { findNode } from './mirror-checks.js'
import { userAbove } from './nodes.js'

const MAX_DEPTH = 1024
const MAX_SIZE = 16 * 2 ** 20

export function inspectHandlers(graphs: Graphs, jobs: Jobs) {
  const { directory } = graphs
  const start = async (
    id: string,
    type: JobPlan['type'],
    nodes: readonly Node[],
    spec: JobSpec,
  ): Promise<void> => {
    for (const node of nodes) checkFree(graphs, node)
    const reservation = jobs.reserve(id)
    for (const node of nodes) node.use = { job: id, type, role: 'source' }
    const end = () => {
      for (const node of nodes) node.use = undefined
      void graphs.closeUnused()
    }
    try {
      const worker = await graphs.join(nodes, id)
      const plan = { type, speed: 0, copyMode: 'background', autoFinalize: true, autoDismiss: false } as const
      try {
        await jobs.start(reservation, plan, spec, worker.handle, () => {
          end()
          worker.release()
        })
      } catch (error) {
        worker.release()
        throw error
      }
    } catch (error) {
      end()
      jobs.giveBack(reservation)
      throw error
    }
  }
  return {
    'x-bench': async (args) => {
      const node = findNode(directory, args.node)
      const {
        write = false,
        count = 75000,
        depth = 64,
        size = 4096,
        offset = 0,
        pattern = 0,
        drain = true,
      } = args
      const flushInterval = args['flush-interval'] ?? 0
      const step = args.step ?? size
      if (depth < 1 || depth > MAX_DEPTH)
        throw new CommandError(`Parameter 'depth' expects a value in range [1, ${MAX_DEPTH}]`)
      if (size < 1 || size > MAX_SIZE)
        throw new CommandError(`Parameter 'size' expects a value in range [1, ${MAX_SIZE}]`)
      if (step < 0 || offset < 0)
        throw new CommandError("Parameters 'step' and 'offset' expect sizes below 8 PiB")
      if (flushInterval > 0 && !write) throw new CommandError("Parameter 'flush-interval' needs 'write'")
      if (flushInterval > 0 && drain && flushInterval < depth)
        throw new CommandError("Parameter 'flush-interval' can't be smaller than 'depth'")
      const pace = { count, depth, size, step, offset, pattern, flushInterval, drain }
      await start(args['job-id'], 'x-bench', [node], { kind: 'bench', node: node.name, write, ...pace })
    },
    'x-compare': async ({ 'job-id': id, node: name, other: otherName, strict = false }) => {
      const node = findNode(directory, name)
      const other = findNode(directory, otherName)
      const nodes = node === other ? [node] : [node, other]
      await start(id, 'x-compare', nodes, { kind: 'compare', node: node.name, other: other.name, strict })
    },
  } satisfies Handlers
}

function checkFree(graphs: Graphs, node: Node): void {
  const user = userAbove(graphs.directory, node)
  if (user?.use !== undefined)
    throw new CommandError(`Node '${node.name}' is busy: it is in use by job '${user.use.job}'`)
  graphs.checkUnchanging(node)
}
