// SPDX-License-Identifier: Apache-2.0
// The last line of `mirror --json`: how it ended, told exactly once, also when no job came to be. Used by mirror.ts.

import { resolve } from 'node:path'
import { toText } from '../../protocol/json-text.js'
import type { Outcome } from './job-follower.js'
import { CliError, exitStatus } from './status.js'
import { isExportName } from './storage.js'

export class JsonResult {
  readonly #source: string
  readonly #target: string
  readonly #startedAt = performance.now()
  #told = false

  constructor(source: string, target: string) {
    this.#source = absolute(source)
    this.#target = absolute(target)
  }

  /** The end of a job. */
  tell(outcome: Outcome): void {
    this.#print(outcome.kind, outcome.error, outcome.receipt?.value)
  }

  /** What ended the command; nothing when the job's end was told already. */
  tellError(error: unknown): void {
    if (this.#told || !(error instanceof Error)) return
    const interrupted = error instanceof CliError && error.status > exitStatus.noConnection
    this.#print(interrupted ? 'cancelled' : 'failed', error.message, undefined)
  }

  #print(result: Outcome['kind'], error: string | undefined, receipt: unknown): void {
    this.#told = true
    const ms = Math.round(performance.now() - this.#startedAt)
    const line = { result, source: this.#source, target: this.#target, 'duration-ms': ms, error, receipt }
    process.stdout.write(`${toText(line)}\n`)
  }
}

/** Of a file; the name of an export says where it is already. */
function absolute(name: string): string {
  return isExportName(name) ? name : resolve(name)
}
