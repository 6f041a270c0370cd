// SPDX-License-Identifier: Apache-2.0
// x-check: a job that looks for errors in an image and repairs them. The counters are those of `qemu-img check`.

import { command, enumOf, optional, required, str, struct } from './types.js'

export const checkCommands = {
  'x-check': command({
    doc: 'Checks the qcow2 image whose bytes a node holds, as a job of type x-check; what was found is x-result in query-jobs: the counters of qemu-img check by its names, `lines` (the first thousand findings) and `lines-left-out`. The job needs job-dismiss.',
    arguments: struct('x-check-arg', {
      'job-id': required(str, 'Job id.'),
      node: required(
        str,
        'Node of the image file itself (driver file, host_device or raw), with nothing above it.',
      ),
      repair: optional(
        enumOf('x-CheckRepair', ['leaks', 'all']),
        'What to repair: leaks only, or everything that can be. The node must be writable then. Default: nothing.',
      ),
    }),
  }),
}
