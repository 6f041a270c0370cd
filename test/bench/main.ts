// SPDX-License-Identifier: Apache-2.0
// `npm run bench`: measures what the product promises, side by side with the tools users have, and prints Markdown.
// Exit status 1 when something promised was not reached.

import { rmSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { commands } from './commands.js'
import { fragmented, random, scattered } from './copies.js'
import { imageParts, images } from './http.js'
import { live, liveLatency, livePivot, liveSynced } from './live.js'
import { memory } from './memory.js'
import { arrivals } from './memory-arrivals.js'
import { dirtying } from './memory-dirtying.js'
import { restores } from './memory-restores.js'
import { saves } from './memory-saves.js'
import { shared } from './memory-shared.js'
import { nbd } from './nbd.js'
import { nbdCopies } from './nbd-copies.js'
import { type BenchOptions, readOptions } from './options.js'
import { qcow2, qcow2Parts } from './qcow2.js'
import { print, table, type Verdict } from './report.js'
import { scan } from './scan.js'
import { soak } from './soak.js'
import { stall } from './stall.js'

const BENCHES: Readonly<Record<string, (options: BenchOptions) => Promise<Verdict[]>>> = {
  random,
  scattered,
  fragmented,
  stall,
  commands,
  memory,
  qcow2,
  nbd,
  live,
  'live-latency': liveLatency,
  'live-pivot': livePivot,
  'live-synced': liveSynced,
  'live-copies': nbdCopies,
  scan,
  saves,
  restores,
  shared,
  arrivals,
  dirtying,
  images,
  ...imageParts,
  ...qcow2Parts,
  soak,
}
/** They take long, and run only when they are asked for. */
const ASKED_FOR = new Set([
  ...[
    'nbd',
    'live',
    'live-latency',
    'live-pivot',
    'live-synced',
    'live-copies',
    'saves',
    'restores',
    'shared',
  ],
  ...['arrivals', 'dirtying', 'images', ...Object.keys(imageParts), ...Object.keys(qcow2Parts), 'soak'],
])

async function main(): Promise<void> {
  const options = readOptions(process.argv.slice(2))
  const wanted = options.names.filter((name) => name !== 'peers')
  const unknown = wanted.find((name) => !(name in BENCHES))
  if (unknown !== undefined)
    throw new Error(`no bench '${unknown}'; there are ${Object.keys(BENCHES).join(', ')}`)
  const names = wanted.length > 0 ? wanted : Object.keys(BENCHES).filter((name) => !ASKED_FOR.has(name))
  print(
    `# Bench: Node ${process.version}, Linux ${release()}, ${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}`,
  )
  const verdicts: Verdict[] = []
  try {
    for (const name of names) verdicts.push(...((await BENCHES[name]?.(options)) ?? []))
  } finally {
    rmSync(options.directory, { recursive: true, force: true })
  }
  print('\n## Reached\n')
  const rows = verdicts.map((each) => [each.what, each.value, each.reached ? 'yes' : '**no**'])
  print(table(['must', 'measured', 'reached'], rows))
  if (verdicts.some((each) => !each.reached)) process.exitCode = 1
}

await main()
