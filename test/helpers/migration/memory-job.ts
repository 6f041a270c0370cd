// SPDX-License-Identifier: Apache-2.0
// A daemon's jobs that move memory, as a manager runs them: started, waited for, dismissed.

import { isRecord, type QmpClient } from '../qmp-client.js'

export type MemoryCommand = 'x-memory-save' | 'x-memory-restore' | 'x-memory-convert'

let jobs = 0

export class MemoryJob {
  readonly id: string
  readonly #client: QmpClient

  private constructor(client: QmpClient, id: string) {
    this.#client = client
    this.id = id
  }

  /** Answers when it waits for its QEMU, or moves. @throws QmpError when it is refused */
  static async start(client: QmpClient, command: MemoryCommand, args: object): Promise<MemoryJob> {
    const id = `memory${jobs++}`
    await client.execute(command, { 'job-id': id, ...args })
    return new MemoryJob(client, id)
  }

  /** Waits for its end and dismisses it. @returns why it failed, or undefined */
  async ended(): Promise<string | undefined> {
    await this.#client.status(this.id, 'concluded')
    const jobs = await this.#client.execute('query-jobs')
    const job = Array.isArray(jobs) ? jobs.find((each) => isRecord(each) && each.id === this.id) : undefined
    await this.#client.execute('job-dismiss', { id: this.id })
    return isRecord(job) && job.error !== undefined ? String(job.error) : undefined
  }

  async cancel(): Promise<void> {
    await this.#client.execute('job-cancel', { id: this.id })
  }

  async info(): Promise<Readonly<Record<string, unknown>>> {
    const info = await this.#client.execute('query-migrate', { 'x-job-id': this.id })
    return isRecord(info) ? info : {}
  }
}
