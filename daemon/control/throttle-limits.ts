// SPDX-License-Identifier: Apache-2.0
// Limits of a throttle group as users give them and are shown them, with what QEMU refuses, in its words. Pure; used by
// Objects.

import type { Arguments } from '../../protocol/schema/index.js'
import type { BucketLimits, ThrottleLimits } from '../common/throttle-limits.js'
import { CommandError } from '../errors.js'

type GroupDefinition = Extract<Arguments<'object-add'>, { 'qom-type': 'throttle-group' }>
export type GroupOptions = NonNullable<GroupDefinition['limits']>
type LimitName = keyof GroupOptions
/** All of them. */
export type GroupLimits = Readonly<Record<LimitName, number>>

const MOST = 1e15
const LONGEST_BURST = 2 ** 32 - 1
const KINDS = ['total', 'read', 'write'] as const
const UNITS = ['bps', 'iops'] as const

export const LIMIT_DEFAULTS: GroupLimits = defaults()

function defaults(): GroupLimits {
  const limits: Partial<Record<LimitName, number>> = { 'iops-size': 0 }
  for (const unit of UNITS)
    for (const kind of KINDS) {
      limits[`${unit}-${kind}`] = 0
      limits[`${unit}-${kind}-max`] = 0
      limits[`${unit}-${kind}-max-length`] = 1
    }
  return limits as GroupLimits
}

/** Limits of a new group: `limits`, and over them the members of its own that are named `x-…`. */
export function definedLimits(definition: GroupDefinition): GroupLimits {
  const own: Record<string, number> = {}
  for (const name of Object.keys(LIMIT_DEFAULTS) as LimitName[]) {
    const value = definition[`x-${name}`]
    if (value === undefined) continue
    if (value < 0) throw new CommandError('Property values cannot be negative')
    own[name] = value
  }
  return changedLimits(LIMIT_DEFAULTS, { ...definition.limits, ...own })
}

/**
 * Limits with some of them changed; the others stay.
 * @throws CommandError for what contradicts itself
 */
export function changedLimits(now: GroupLimits, change: GroupOptions): GroupLimits {
  const given = Object.entries(change).filter(([, value]) => value !== undefined)
  for (const [name, value] of given)
    if (name.endsWith('-length') && ((value ?? 0) < 0 || (value ?? 0) > LONGEST_BURST))
      throw new CommandError(`${name} value must be in the range [0, ${LONGEST_BURST}]`)
  const limits = { ...now, ...Object.fromEntries(given) }
  check(limits)
  return limits
}

function check(limits: GroupLimits): void {
  for (const unit of UNITS)
    for (const part of ['', '-max'] as const)
      if (limits[`${unit}-total${part}`] && (limits[`${unit}-read${part}`] || limits[`${unit}-write${part}`]))
        throw new CommandError(
          'bps/iops/max total values and read/write values cannot be used at the same time',
        )
  if (limits['iops-size'] && !KINDS.some((kind) => limits[`iops-${kind}`]))
    throw new CommandError('iops size requires an iops value to be set')
  for (const unit of UNITS) for (const kind of KINDS) checkBucket(bucket(limits, unit, kind))
  checkRange(limits['iops-size'])
}

function checkBucket({ rate, burst, burstSeconds }: BucketLimits): void {
  checkRange(rate)
  checkRange(burst)
  if (burstSeconds === 0) throw new CommandError('the burst length cannot be 0')
  if (burstSeconds > 1 && burst === 0) throw new CommandError('burst length set without burst rate')
  if (burst > 0 && burstSeconds > Math.floor(MOST / burst))
    throw new CommandError('burst length too high for this burst rate')
  if (burst > 0 && rate === 0)
    throw new CommandError('bps_max/iops_max require corresponding bps/iops values')
  if (burst > 0 && burst < rate) throw new CommandError('bps_max/iops_max cannot be lower than bps/iops')
}

function checkRange(value: number): void {
  if (value < 0 || value > MOST)
    throw new CommandError('bps/iops/max values must be within [0, 1000000000000000]')
}

function bucket(
  limits: GroupLimits,
  unit: (typeof UNITS)[number],
  kind: (typeof KINDS)[number],
): BucketLimits {
  return {
    rate: limits[`${unit}-${kind}`],
    burst: limits[`${unit}-${kind}-max`],
    burstSeconds: limits[`${unit}-${kind}-max-length`],
  }
}

/** As workers take them. */
export function workerLimits(limits: GroupLimits): ThrottleLimits {
  return {
    bpsTotal: bucket(limits, 'bps', 'total'),
    bpsRead: bucket(limits, 'bps', 'read'),
    bpsWrite: bucket(limits, 'bps', 'write'),
    iopsTotal: bucket(limits, 'iops', 'total'),
    iopsRead: bucket(limits, 'iops', 'read'),
    iopsWrite: bucket(limits, 'iops', 'write'),
    iopsSize: limits['iops-size'],
  }
}
