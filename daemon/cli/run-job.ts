// SPDX-License-Identifier: Apache-2.0
// Runs one job that finds something out (x-bench, x-compare) from its start to its result. ^C cancels it; a second one
// leaves at once.

import type { JsonObject } from '../../protocol/json-value.js'
import type { CommandArguments } from './client.js'
import type { Daemon } from './daemon.js'
import { Interrupt } from './interrupt.js'
import { JobFollower, type Progress } from './job-follower.js'
import { CliError, exitStatus, failed } from './status.js'

/** @returns its x-result. @throws CliError when it failed or was cancelled */
export async function runJob(
  daemon: Daemon,
  command: string,
  args: CommandArguments & { readonly 'job-id': string },
  progress: (progress: Progress) => void = () => undefined,
): Promise<JsonObject> {
  const { client } = daemon
  const id = args['job-id']
  let cancelled: number | undefined
  using _ = new Interrupt(
    (status) => {
      cancelled = status
      // A refusal means that the job is not there yet or at its end anyway.
      client.execute('job-cancel', { id }).catch(() => undefined)
    },
    (status) => {
      daemon.kill()
      process.exit(status)
    },
  )
  const tell = { event: () => undefined, progress, stopped: () => undefined }
  const follower = new JobFollower(client, id, tell, 'query-jobs')
  try {
    await client.execute(command, args)
    if (cancelled !== undefined) await client.execute('job-cancel', { id }).catch(() => undefined)
    const outcome = await follower.outcome()
    if (cancelled !== undefined && outcome.kind !== 'completed') throw new CliError(cancelled, 'interrupted')
    if (outcome.kind !== 'completed') throw failed(outcome.error ?? 'the job was cancelled')
    if (outcome.result === undefined) throw new CliError(exitStatus.failed, 'the daemon tells no result')
    return outcome.result
  } finally {
    follower.stop()
  }
}
