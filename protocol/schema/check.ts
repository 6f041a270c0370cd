// SPDX-License-Identifier: Apache-2.0
// x-check: a job that looks for errors in an image and repairs them. The counters are those of `qemu-img check`.

import { arrayOf, command, enumOf, int, optional, required, str, struct } from './types.js'

export const checkResult = struct('x-CheckResult', {
  'check-errors': required(int, 'What could not be checked.'),
  corruptions: required(int, 'Corruptions that are left.'),
  leaks: required(int, 'Clusters that nothing refers to, but that count as used, that are left.'),
  'corruptions-fixed': required(int, 'Corruptions that were repaired.'),
  'leaks-fixed': required(int, 'Leaks that were repaired.'),
  'total-clusters': required(int, 'Clusters of the virtual disk.'),
  'allocated-clusters': required(int, 'Those that have storage in the image.'),
  'fragmented-clusters': required(int, 'Those that do not lie behind their predecessor.'),
  'compressed-clusters': required(int, 'Those that are stored compressed.'),
  'image-end-offset': required(int, 'Where the last cluster in use ends, bytes.'),
  lines: required(arrayOf(str), 'What was found, in words; the first thousand findings.'),
  'lines-left-out': required(int, 'Findings that are not among them.'),
})

export const checkCommands = {
  'x-check': command({
    doc: 'Checks the qcow2 image whose bytes a node holds, as a job of type x-check; what was found is x-result in query-jobs. The job needs job-dismiss.',
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
