// SPDX-License-Identifier: Apache-2.0
// How fast the disk itself takes and gives data past the page cache, measured in the same sitting as what is compared with it.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { buildFolder } from '../helpers/program.js'
import { runTool } from './images.js'

/** Bytes a second into a file that has no storage yet, as a save's has none. */
export function writeRate(directory: string): number {
  const file = join(directory, 'rate')
  try {
    return rate('write', file)
  } finally {
    rmSync(file, { force: true })
  }
}

/** Bytes a second of the 2 GiB behind the first 32 MiB of a file. */
export function readRate(file: string): number {
  return rate('read', file)
}

function rate(way: 'read' | 'write', file: string): number {
  return Number(runTool('python3', [`${buildFolder}../test/bench/disk-rate.py`, way, file]))
}

/** A line below a table. */
export function rateText(rates: readonly number[]): string {
  return `The disk itself, O_DIRECT: ${rates.map((value) => (value / 1e6).toFixed(0)).join(' ')} MB/s.`
}
