// SPDX-License-Identifier: Apache-2.0
// Runs one job from its start to its end, for the commands whose job opens what it needs itself. ^C cancels it; a second one
// leaves at once.

import type { JsonObject } from '../../protocol/json-value.js'
import type { CommandArguments, QmpEvent } from './client.js'
import type { Daemon } from './daemon.js'
import { Interrupt } from './interrupt.js'
import { JobFollower, type Outcome, type Progress } from './job-follower.js'
import { CliError, exitStatus, failed } from './status.js'

type JobArguments = CommandArguments & { readonly 'job-id': string }

export interface JobHooks {
  /** What it is to do, for the error of a job that failed: "commit 'a'". */
  readonly what?: string
  readonly progress?: (progress: Progress) => void
  readonly event?: (event: QmpEvent) => void
  /** Done beside the job once it runs; the job is cancelled when it fails. @param over  aborted when the job has ended */
  readonly beside?: (over: AbortSignal) => Promise<void>
}

/** @returns its x-result. @throws CliError when it failed or was cancelled */
export async function runJob(
  daemon: Daemon,
  command: string,
  args: JobArguments,
  hooks: Pick<JobHooks, 'what' | 'progress'> = {},
): Promise<JsonObject> {
  const { result } = await finishJob(daemon, command, args, hooks)
  if (result === undefined) throw new CliError(exitStatus.failed, 'the daemon tells no result')
  return result
}

/** @returns how it ended well. @throws CliError when it failed or was cancelled, and what `beside` threw */
export async function finishJob(
  daemon: Daemon,
  command: string,
  args: JobArguments,
  { what, progress = () => undefined, event = () => undefined, beside = async () => {} }: JobHooks,
): Promise<Outcome> {
  const { client } = daemon
  const id = args['job-id']
  let cancelled: number | undefined
  // A refusal means that the job is not there yet or at its end anyway.
  const cancel = () => client.execute('job-cancel', { id }).catch(() => undefined)
  using _ = new Interrupt(
    (status) => {
      cancelled = status
      void cancel()
    },
    (status) => {
      daemon.kill()
      process.exit(status)
    },
  )
  const tell = { event, progress, stopped: () => undefined }
  const follower = new JobFollower(client, id, tell, 'query-jobs')
  try {
    await client.execute(command, args)
    if (cancelled !== undefined) await cancel()
    const over = new AbortController()
    const other = beside(over.signal).catch(async (error: unknown) => {
      await cancel()
      throw error
    })
    const ended = follower.outcome().finally(() => over.abort())
    const [outcome] = await Promise.all([ended, settled(other)])
    if (cancelled !== undefined && outcome.kind !== 'completed') throw new CliError(cancelled, 'interrupted')
    if (outcome.kind === 'failed')
      throw failed(`${what === undefined ? '' : `cannot ${what}: `}${outcome.error ?? 'the job failed'}`)
    await other
    if (outcome.kind !== 'completed') throw failed(outcome.error ?? 'the job was cancelled')
    return outcome
  } finally {
    follower.stop()
  }
}

async function settled(work: Promise<void>): Promise<void> {
  await work.catch(() => undefined)
}
