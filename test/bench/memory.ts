// SPDX-License-Identifier: Apache-2.0
// Resident memory of the daemon with one large mirror running, and what each further idle disk adds.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { pace } from '../helpers/waiting.js'
import { makeScattered, makeTarget } from './images.js'
import type { BenchOptions } from './options.js'
import { atMost, print, type Verdict } from './report.js'

const MiB = 2 ** 20
const DISKS = 8

export async function memory(options: BenchOptions): Promise<Verdict[]> {
  print('\n## Memory\n')
  const size = options.size ?? 64 * 2 ** 30
  const { source, target, directory } = options.paths('memory')
  makeScattered(source, size, 4096, 7)
  makeTarget(target, size)
  const idle = Array.from({ length: DISKS }, (_, n) => join(directory, `idle${n}.img`))
  for (const path of idle) makeTarget(path, 2 ** 30)
  await using daemon = await Daemon.start({ directory })
  const { client } = daemon
  const add = (name: string, filename: string): Promise<unknown> =>
    client.execute('blockdev-add', {
      driver: 'raw',
      'node-name': name,
      file: { driver: 'file', filename, cache: { direct: true } },
    })
  await add('source', source)
  await add('target', target)
  // Slow enough to be still running when memory is read, fast enough that every buffer is used.
  const mirror = { 'job-id': 'copy', device: 'source', target: 'target', sync: 'full', speed: 64 * MiB }
  await client.execute('blockdev-mirror', mirror)
  await pace(3000)
  const running = daemon.memory().rss
  for (const [n, path] of idle.entries()) await add(`idle${n}`, path)
  await pace(1000)
  const withIdle = daemon.memory().rss
  await client.execute('job-cancel', { id: 'copy' })
  await client.status('copy', 'null')
  for (const path of [source, target, ...idle]) rmSync(path)
  return [
    atMost('memory: RSS with one mirror running', running / MiB, 150, ' MiB'),
    atMost('memory: more for each idle disk', (withIdle - running) / DISKS / MiB, 16, ' MiB'),
  ]
}
