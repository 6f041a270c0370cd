// SPDX-License-Identifier: Apache-2.0
// qcow2 side by side with QEMU's tools: one image per order of its clusters is read, copied and written over; then
// copies to new images, compressed ones, and a large image that is only looked at.

import { rmSync } from 'node:fs'
import type { BenchOptions } from './options.js'
import { compressed, toQcow2, toRaw } from './qcow2-copies.js'
import { makeOrdered, orders } from './qcow2-images.js'
import { requests } from './qcow2-requests.js'
import { spread } from './qcow2-spread.js'
import { mebibytes, print, type Verdict } from './report.js'

const GiB = 2 ** 30

export async function qcow2(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const verdicts: Verdict[] = []
  for (const order of orders) {
    const copy = { ...options.paths(`qcow2-${order}`), size, sourceFormat: 'qcow2' } as const
    print(`\n## ${mebibytes(size)} qcow2, clusters written in order ${order}\n`)
    makeOrdered(copy.source, size, order)
    verdicts.push(...(await requests(copy, order, 'read', options.rounds)))
    verdicts.push(...(await toRaw(copy, order, options)))
    verdicts.push(...(await requests(copy, order, 'write', options.rounds)))
    rmSync(copy.source)
  }
  verdicts.push(...(await toQcow2(options)))
  verdicts.push(...(await compressed(options)))
  verdicts.push(...(await spread(options)))
  return verdicts
}
