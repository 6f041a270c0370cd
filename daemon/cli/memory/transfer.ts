// SPDX-License-Identifier: Apache-2.0
// Runs the job of a memory command, shows how far it is and says what it did.

import { randomBytes } from 'node:crypto'
import { toText } from '../../../protocol/json-text.js'
import type { JsonObject } from '../../../protocol/json-value.js'
import { formatDuration, formatRate, formatSize } from '../../common/units.js'
import type { CommandArguments } from '../client.js'
import type { Daemon } from '../daemon.js'
import type { Outcome } from '../job-follower.js'
import { withNodes } from '../open-nodes.js'
import { reporter } from '../reporter.js'
import { finishJob, type JobHooks } from '../run-job.js'
import { textOf } from '../values.js'

export interface RunOptions {
  readonly progress: boolean
  readonly json: boolean
  readonly quiet: boolean
  readonly aio?: string
  readonly socket?: string
  readonly logLevel?: string
}

export interface Transfer {
  readonly command: 'x-memory-save' | 'x-memory-restore' | 'x-memory-convert'
  readonly args: CommandArguments
  /** What was done, for the line at the end: "saved memory to 'vm.mem'". */
  readonly words: string
  readonly options: RunOptions
  readonly beside?: (daemon: Daemon, job: string) => NonNullable<JobHooks['beside']>
}

/** @throws CliError for every end but success */
export async function runTransfer({ command, args, words, options, beside }: Transfer): Promise<void> {
  const id = `${command.replace('x-memory-', '')}-${randomBytes(4).toString('hex')}`
  const started = performance.now()
  const report = reporter({ json: false, progress: options.progress && !options.json && !options.quiet })
  const told = (result: JsonObject) => {
    const ms = Math.round(performance.now() - started)
    if (options.json) process.stdout.write(`${toText({ ...result, 'duration-ms': ms })}\n`)
  }
  const outcome = await withNodes({ ...options, disks: 0 }, async (daemon) => {
    try {
      return await finishJob(
        daemon,
        command,
        { ...args, 'job-id': id },
        {
          progress: (progress) => report.progress(progress),
          ...(beside !== undefined && { beside: beside(daemon, id) }),
        },
      )
    } finally {
      report.end()
    }
  }).catch((error: unknown) => {
    told({ result: 'failed', error: error instanceof Error ? error.message : String(error) })
    throw error
  })
  const ms = performance.now() - started
  const leftOut = textOf(outcome.result, 'digests-left-out')
  if (leftOut !== undefined) process.stderr.write(`blockferry: no checksums were written: ${leftOut}\n`)
  const { receipt, result } = outcome
  told({
    result: 'completed',
    ...(receipt !== undefined && { receipt: receipt.value }),
    ...result,
  })
  if (!options.json && !options.quiet) process.stdout.write(`${words}: ${receiptText(outcome, ms)}\n`)
}

function receiptText({ receipt }: Outcome, ms: number): string {
  const { copied = 0, skipped = 0, flush = 'unknown' } = receipt ?? {}
  const rate = formatRate((copied / Math.max(1, ms)) * 1000)
  const amount = `${formatSize(copied)} of data, ${formatSize(skipped)} of zeroes`
  const flushed = flush === 'ok' ? ', flushed' : ''
  return `${amount} in ${formatDuration(ms)} (${rate})${flushed}`
}
