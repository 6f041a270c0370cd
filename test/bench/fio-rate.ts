// SPDX-License-Identifier: Apache-2.0
// Requests a second that fio gets done. Used by the benches of servers: as their client, and of the disk without a server.

import { spawnSync } from 'node:child_process'

/** @param how  the engine, what it works on, and for how long (`--runtime`) */
export function fioRate(how: readonly string[]): number {
  const args = ['--name=rate', '--time_based', '--norandommap', '--output-format=json', ...how]
  const { status, stdout, stderr } = spawnSync('fio', args, { encoding: 'utf8' })
  const from = stdout.indexOf('{')
  if (status !== 0 || from < 0) throw new Error(`fio: ${stderr}${stdout}`)
  const job = JSON.parse(stdout.slice(from)).jobs[0]
  return Math.max(job.read.iops, job.write.iops)
}
