// SPDX-License-Identifier: Apache-2.0
// Whether a job that copies leaves the disk to those who use it.

import { bool, optional } from './types.js'

export const yielding = optional(
  bool,
  'While clients of an export use the disk, have only as little in flight that their requests take about twice as long as alone.',
  { default: true },
)
