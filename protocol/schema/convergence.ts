// SPDX-License-Identifier: Apache-2.0
// Whether a job that follows a disk in use gets done: shown, told by an event, and acted on.

import { enumOf, event, int, optional, required, str, struct } from './types.js'

const verdict = required(
  enumOf('x-ConvergenceVerdict', ['unknown', 'converging', 'stalled', 'diverging']),
  'Not known yet; what is left shrinks; it stays as it is; it grows, or will as soon as all was copied once.',
)
const rates = {
  'dirty-rate': required(
    int,
    'Bytes of the source that users change, per second; whole chunks of the bitmap.',
  ),
  'copy-rate': required(int, 'Bytes that the job gets done, per second.'),
}

export const convergence = struct('x-Convergence', {
  verdict,
  ...rates,
  'write-limit': optional(int, 'Bytes per second that users may write, while they are slowed down.'),
})

export const onDiverge = optional(
  enumOf('x-OnDiverge', ['report', 'write-blocking', 'throttle']),
  'When the source is changed faster than it is copied: only tell; have changes wait for the target, as the copy mode of that name; slow changes down until nothing is left to copy.',
  { default: 'report' },
)

export const convergenceEvents = {
  'x-job-convergence': event({
    doc: 'Whether a mirror gets done while its source is in use is known, or has changed.',
    data: struct('x-job-convergence-arg', { id: required(str, 'Job id.'), verdict, ...rates }),
    extension: true,
  }),
}
