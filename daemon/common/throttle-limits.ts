// SPDX-License-Identifier: Apache-2.0
// Limits of a throttle group, as the main thread hands them to workers.

export interface BucketLimits {
  /** Units per second, 0 = no limit. */
  readonly rate: number
  /** Units per second while it bursts; 0 = no bursts. */
  readonly burst: number
  /** Seconds of a burst at that rate. */
  readonly burstSeconds: number
}

export interface ThrottleLimits {
  readonly bpsTotal: BucketLimits
  readonly bpsRead: BucketLimits
  readonly bpsWrite: BucketLimits
  readonly iopsTotal: BucketLimits
  readonly iopsRead: BucketLimits
  readonly iopsWrite: BucketLimits
  /** Bytes that count as one operation; longer requests count as more. 0 = each counts as one. */
  readonly iopsSize: number
}

const none: BucketLimits = { rate: 0, burst: 0, burstSeconds: 1 }

export const NO_LIMITS: ThrottleLimits = {
  ...{ bpsTotal: none, bpsRead: none, bpsWrite: none },
  ...{ iopsTotal: none, iopsRead: none, iopsWrite: none, iopsSize: 0 },
}
