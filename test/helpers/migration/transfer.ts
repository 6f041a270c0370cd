// SPDX-License-Identifier: Apache-2.0
// Migration over QMP: sets exactly what was asked for, begins, and waits for the end by QEMU's own events.

import { isRecord, type QmpClient } from '../qmp-client.js'

export interface How {
  /** Those that are to be on; all others are switched off (but `events`, which tell the end). */
  readonly capabilities?: readonly string[]
  /** Over these: no bandwidth limit, the default downtime limit of 300 ms, two channels, no direct-io. */
  readonly parameters?: Readonly<Record<string, unknown>>
}

type Status = 'completed' | 'failed' | 'cancelled'

export interface MigrationEnd {
  readonly status: Status
  /** What QEMU says of a failure. */
  readonly error: string | undefined
  /** From the command until QEMU answers again with the target closed: closing a file can take it a second. */
  readonly seconds: number
  /** Pages sent with data, repetitions included. */
  readonly normal: number
  /** Zero pages. */
  readonly zero: number
  /** Megabits per second as QEMU has it: without the time for closing. */
  readonly mbps: number
  readonly downtimeMs: number
}

export interface LoadEnd {
  readonly status: Status
  readonly error: string | undefined
  readonly seconds: number
}

export interface Incoming {
  /** Waits for the end; QEMU reports a failure where it can live on after one (from 9.1), else it ends. */
  end(): Promise<LoadEnd>
}

export async function migrate(qmp: QmpClient, uri: string, how: How): Promise<MigrationEnd> {
  await prepare(qmp, how)
  const begun = performance.now()
  await qmp.execute('migrate', { uri })
  const status = await ended(qmp)
  if (status === 'completed' && !how.capabilities?.includes('background-snapshot')) {
    // This state is set where closing is put on the main loop's list: what is asked afterwards is answered after it.
    while ((await runState(qmp)) !== 'postmigrate');
  }
  const info = record(await qmp.execute('query-migrate'))
  const ram = record(info.ram)
  return {
    status,
    error: info['error-desc'] === undefined ? undefined : String(info['error-desc']),
    seconds: (performance.now() - begun) / 1000,
    normal: Number(ram.normal ?? 0),
    zero: Number(ram.duplicate ?? 0),
    mbps: Number(ram.mbps ?? 0),
    downtimeMs: Number(info.downtime ?? 0),
  }
}

export async function incoming(qmp: QmpClient, uri: string, how: How): Promise<Incoming> {
  const parameters = await prepare(qmp, how)
  const begun = performance.now()
  // Known where direct-io is: both came with 9.1.
  const stay = 'direct-io' in parameters ? { 'exit-on-error': false } : {}
  await qmp.execute('migrate-incoming', { uri, ...stay })
  return {
    end: async () => {
      const status = await ended(qmp)
      const seconds = (performance.now() - begun) / 1000
      const info = record(await qmp.execute('query-migrate'))
      const error = info['error-desc']
      return { status, error: error === undefined ? undefined : String(error), seconds }
    },
  }
}

export async function runState(qmp: QmpClient): Promise<string> {
  return String(record(await qmp.execute('query-status')).status)
}

/** @returns the parameters as they were before */
async function prepare(qmp: QmpClient, { capabilities = [], parameters = {} }: How): Promise<object> {
  const wanted = new Set(['events', ...capabilities])
  const known = await qmp.execute('query-migrate-capabilities')
  if (!Array.isArray(known)) throw new Error('no list of capabilities')
  const names = known.map((each) => String(record(each).capability))
  const all = [...new Set([...names, ...wanted])].map((capability) => ({
    capability,
    state: wanted.has(capability),
  }))
  await qmp.execute('migrate-set-capabilities', { capabilities: all })
  const before = record(await qmp.execute('query-migrate-parameters'))
  const direct = 'direct-io' in before ? { 'direct-io': false } : {}
  const usual = { 'max-bandwidth': 0, 'downtime-limit': 300, 'multifd-channels': 2, ...direct }
  await qmp.execute('migrate-set-parameters', { ...usual, ...parameters })
  // Of an earlier migration.
  for (let at = qmp.events.length - 1; at >= 0; at--)
    if (qmp.events[at]?.event === 'MIGRATION') qmp.events.splice(at, 1)
  return before
}

async function ended(qmp: QmpClient): Promise<Status> {
  const ends: readonly Status[] = ['completed', 'failed', 'cancelled']
  let end: Status | undefined
  await qmp.event('MIGRATION', ({ status }) => {
    end = ends.find((each) => each === status)
    return end !== undefined
  })
  return end ?? 'failed'
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return isRecord(value) ? value : {}
}
