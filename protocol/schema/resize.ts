// SPDX-License-Identifier: Apache-2.0
// x-resize: a job that gives a node another size, with storage for what is new. What it does is qemu-img resize's.

import { preallocMode } from './drivers/qcow2-create.js'
import { command, int, optional, required, str, struct } from './types.js'

export const resizeCommands = {
  'x-resize': command({
    doc: 'Changes the size of a node as a job of type x-resize, and may give what is new its storage at once. When it fails or is cancelled the node is as long as before, unless writing or flushing the new size was what failed. Until it ends the node can be used by nothing else. The job needs job-dismiss.',
    arguments: struct('x-resize-arg', {
      'job-id': required(str, 'Job id.'),
      node: required(str, 'Name of a writable node, with nothing above it, that no export offers.'),
      size: required(int, 'New size, bytes.'),
      preallocation: optional(
        preallocMode,
        'metadata: new clusters of qcow2 have their places; falloc: and their storage is reserved; full: or written. Only where the node grows.',
        { default: 'off' },
      ),
    }),
  }),
}
