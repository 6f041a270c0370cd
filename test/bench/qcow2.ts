// SPDX-License-Identifier: Apache-2.0
// qcow2 side by side with QEMU's tools: one image per order of its clusters is read, copied and written over; then
// copies to new images, compressed ones, and a large image that is only looked at.

import { rmSync } from 'node:fs'
import type { BenchOptions } from './options.js'
import { compressed, toQcow2, toRaw } from './qcow2-copies.js'
import { makeOrdered, type Order, orders } from './qcow2-images.js'
import { requests } from './qcow2-requests.js'
import { spread } from './qcow2-spread.js'
import { mebibytes, print, type Verdict } from './report.js'

const GiB = 2 ** 30

/** Each has a name of its own on the command line, too. */
export const qcow2Parts: Readonly<Record<string, (options: BenchOptions) => Promise<Verdict[]>>> = {
  ...Object.fromEntries(
    orders.map((each) => [`qcow2-${each}`, (options: BenchOptions) => ordered(each, options)]),
  ),
  'qcow2-new': toQcow2,
  'qcow2-packed': compressed,
  'qcow2-spread': spread,
}

export async function qcow2(options: BenchOptions): Promise<Verdict[]> {
  const verdicts: Verdict[] = []
  for (const part of Object.values(qcow2Parts)) verdicts.push(...(await part(options)))
  return verdicts
}

/** An image is read, copied and written over. */
async function ordered(order: Order, options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths(`qcow2-${order}`), size, sourceFormat: 'qcow2' } as const
  print(`\n## ${mebibytes(size)} qcow2, clusters written in order ${order}\n`)
  makeOrdered(copy.source, size, order)
  const verdicts = await requests(copy, order, 'read', options.rounds)
  verdicts.push(...(await toRaw(copy, order, options)))
  verdicts.push(...(await requests(copy, order, 'write', options.rounds)))
  rmSync(copy.source)
  return verdicts
}
