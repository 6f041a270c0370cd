// SPDX-License-Identifier: Apache-2.0
// x-check: a job in the worker of the node that holds the image. The node is claimed before the first wait.

import { CommandError } from '../../errors.js'
import type { Handlers } from '../commands.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'
import { findNode } from './mirror-checks.js'

export function checkHandlers(graphs: Graphs, jobs: Jobs) {
  return {
    'x-check': async ({ 'job-id': id, node: name, repair }) => {
      const node = findNode(graphs.directory, name)
      if (node.use !== undefined || node.parents.size > 0) throw new CommandError(`Node '${name}' is in use`)
      graphs.checkUnchanging(node)
      const { worker } = node
      if (worker === undefined) throw new CommandError(`Node '${name}' is not open`)
      const reservation = jobs.reserve(id)
      node.use = { job: id, type: 'x-check', role: 'source' }
      worker.hold()
      const end = () => {
        node.use = undefined
        worker.release()
        void graphs.closeUnused()
      }
      try {
        await jobs.start(
          reservation,
          { type: 'x-check', speed: 0, copyMode: 'background', autoFinalize: true, autoDismiss: false },
          { kind: 'check', node: name, repair: repair ?? 'none' },
          worker.handle,
          end,
        )
      } catch (error) {
        jobs.giveBack(reservation)
        end()
        throw error
      }
    },
  } satisfies Handlers
}
