// SPDX-License-Identifier: Apache-2.0
// x-check and x-resize: jobs on one node that nothing else uses, in its worker. The node is claimed before the first wait.

import { CommandError } from '../../errors.js'
import type { JobSpec } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import { findNode } from './mirror-checks.js'

export function idleNodeHandlers(graphs: Graphs, jobs: Jobs) {
  /** @param alone  the node is busy for other commands meanwhile: what came to use it would wait for the job */
  const start = async (
    id: string,
    type: JobPlan['type'],
    node: Node,
    spec: JobSpec,
    alone: boolean,
  ): Promise<void> => {
    if (node.use !== undefined || node.parents.size > 0)
      throw new CommandError(`Node '${node.name}' is in use`)
    graphs.checkUnchanging(node)
    const { worker } = node
    if (worker === undefined) throw new CommandError(`Node '${node.name}' is not open`)
    const reservation = jobs.reserve(id)
    node.use = { job: id, type, role: 'source' }
    if (alone) node.state = 'changing'
    worker.hold()
    const end = () => {
      node.use = undefined
      if (alone) node.state = 'open'
      worker.release()
      void graphs.closeUnused()
    }
    const plan = { type, speed: 0, copyMode: 'background', autoFinalize: true, autoDismiss: false } as const
    try {
      await jobs.start(reservation, plan, spec, worker.handle, end)
    } catch (error) {
      jobs.giveBack(reservation)
      end()
      throw error
    }
  }
  return {
    'x-check': async ({ 'job-id': id, node: name, repair }) => {
      const node = findNode(graphs.directory, name)
      await start(id, 'x-check', node, { kind: 'check', node: name, repair: repair ?? 'none' }, false)
    },
    'x-resize': async ({ 'job-id': id, node: name, size, preallocation = 'off' }) => {
      const node = findNode(graphs.directory, name)
      if (size < 0) throw new CommandError("Parameter 'size' expects a >0 size")
      if (node.exports.size > 0) throw new CommandError(`Node '${name}' is in use`)
      await start(id, 'x-resize', node, { kind: 'resize', node: name, size, preallocation }, true)
    },
  } satisfies Handlers
}
