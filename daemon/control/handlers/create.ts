// SPDX-License-Identifier: Apache-2.0
// blockdev-create: a job of type create in a worker of its own, so that a slow file system holds up nothing else.

import { CommandError } from '../../errors.js'
import type { Handlers } from '../commands.js'
import type { Graphs } from '../graphs.js'
import type { Jobs } from '../jobs/jobs.js'

export function imageHandlers(graphs: Graphs, jobs: Jobs) {
  return {
    'blockdev-create': async ({ 'job-id': id, options }) => {
      if (options.driver !== 'file') throw new CommandError('Driver does not support blockdev-create')
      const { filename, size, preallocation } = options
      if (size < 0) throw new CommandError("Parameter 'options.size' expects a size below 8 PiB")
      const reservation = jobs.reserve(id)
      const worker = graphs.startWorker()
      const end = () => worker.release()
      try {
        await jobs.start(
          reservation,
          { type: 'create', speed: 0, copyMode: 'background', autoFinalize: true, autoDismiss: false },
          { kind: 'create', driver: 'file', filename, size, preallocation: preallocation ?? 'off' },
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
