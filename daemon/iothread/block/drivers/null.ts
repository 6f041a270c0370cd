// SPDX-License-Identifier: Apache-2.0
// null-co and null-aio: storage that takes everything and keeps nothing. For measuring, and as a scratch target.
// Without read-zeroes a read leaves the buffer as it is, so that it costs nothing; block status says data then.

import { setTimeout as delay } from 'node:timers/promises'
import type { IoEngine } from '../../../../native/types.js'
import { CommandError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import type { BlockDriver, Can, Extent, Limits, ReadHow, Slice } from '../driver.js'
import { sizeOption } from '../options.js'

class NullDriver implements BlockDriver {
  readonly can: Can = { write: true, resize: false, fastZero: true, unmap: true }
  readonly limits: Limits
  readonly #engine: IoEngine
  readonly #size: number
  readonly #latencyMs: number
  readonly #readZeroes: boolean

  constructor(
    readonly type: 'null-co' | 'null-aio',
    engine: IoEngine,
    size: number,
    latencyMs: number,
    readZeroes: boolean,
  ) {
    this.#engine = engine
    this.#size = size
    this.#latencyMs = latencyMs
    this.#readZeroes = readZeroes
    this.limits = { requestAlign: 1, maxTransfer: engine.slotSize, zeroAlign: 1 }
  }

  length(): number {
    return this.#size
  }
  async read(_offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    await this.#wait()
    if (!this.#readZeroes) return false
    this.#engine.slotBytes(into.slot).fill(0, into.offset, into.offset + into.length)
    return how?.scan === true
  }
  write(): Promise<void> {
    return this.#wait()
  }
  zero(): Promise<void> {
    return this.#wait()
  }
  discard(): Promise<void> {
    return this.#wait()
  }
  async status(offset: number, length: number): Promise<Extent> {
    return { offset, length, kind: this.#readZeroes ? 'zero' : 'data', allocated: true }
  }
  flush(): Promise<void> {
    return this.#wait()
  }
  async close(): Promise<void> {}

  async #wait(): Promise<void> {
    if (this.#latencyMs > 0) await delay(this.#latencyMs)
  }
}

/** @throws CommandError for a negative latency */
export function openNull(spec: NodeSpec, engine: IoEngine): NullDriver {
  const latencyNs = (spec['latency-ns'] as number | undefined) ?? 0
  if (latencyNs < 0) throw new CommandError('latency-ns is invalid')
  return new NullDriver(
    spec.driver === 'null-aio' ? 'null-aio' : 'null-co',
    engine,
    sizeOption(spec, 'size', 2 ** 30),
    // Timers count in milliseconds; a shorter latency becomes one.
    Math.ceil(latencyNs / 1e6),
    (spec['read-zeroes'] as boolean | undefined) ?? false,
  )
}
