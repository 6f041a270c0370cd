// SPDX-License-Identifier: Apache-2.0
// Has the daemon look at a file, and gives what it found. Used by the memory commands that write nothing.

import { randomBytes } from 'node:crypto'
import type { JsonObject } from '../../../protocol/json-value.js'
import type { CommandArguments } from '../client.js'
import { withNodes } from '../open-nodes.js'
import { reporter } from '../reporter.js'
import { runJob } from '../run-job.js'
import { placeOf } from './requests.js'
import type { RunOptions } from './transfer.js'

export interface InspectOptions extends RunOptions {
  /** Where the image begins in the file, bytes. */
  readonly offset?: number
  readonly direct: boolean
}

/** @throws CliError */
export async function inspect(
  what: 'info' | 'verify' | 'diff' | 'map',
  file: string,
  options: InspectOptions,
  more: CommandArguments = {},
): Promise<JsonObject> {
  const { progress, json, quiet, offset, direct } = options
  const report = reporter({ json: false, progress: progress && !json && !quiet })
  const id = `${what}-${randomBytes(4).toString('hex')}`
  const args = { 'job-id': id, what, file: placeOf(file), offset, 'direct-io': direct, ...more }
  return await withNodes({ ...options, disks: 0 }, async (daemon) => {
    try {
      return await runJob(daemon, 'x-memory-inspect', args, {
        progress: (progress) => report.progress(progress),
      })
    } finally {
      report.end()
    }
  })
}
