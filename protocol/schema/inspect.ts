// SPDX-License-Identifier: Apache-2.0
// Jobs that find something out about nodes: how fast, and whether they are alike. Results are in query-jobs (x-result).

import { bool, command, optional, required, size, str, struct, uint8, uint32 } from './types.js'

export const inspectCommands = {
  'x-bench': command({
    doc: 'Reads or writes a node in a fixed pattern, as a job. x-result: requests, bytes, microseconds. The job needs job-dismiss.',
    arguments: struct('x-bench-arg', {
      'job-id': required(str, 'Job id.'),
      node: required(str, 'Name of the node.'),
      write: optional(bool, 'Write instead of read. What is in the image is lost.', { default: false }),
      count: optional(uint32, 'Requests altogether.', { default: 75000 }),
      depth: optional(uint32, 'Requests at once, 1 to 1024.', { default: 64 }),
      size: optional(size, 'Bytes of each request, 1 to 16 MiB.', { default: 4096 }),
      step: optional(size, 'Bytes from one request to the next; default: size.'),
      offset: optional(size, 'Where the first request begins, bytes.', { default: 0 }),
      pattern: optional(uint8, 'Byte that is written.', { default: 0 }),
      'flush-interval': optional(uint32, 'Writes between two flushes; 0 = none before the end.', {
        default: 0,
      }),
      drain: optional(bool, 'Wait for the writes in flight before each flush.', { default: true }),
    }),
  }),
  'x-compare': command({
    doc: 'Finds out whether two nodes read alike, as a job. x-result: identical, size-mismatch; if not identical, difference (content, status or size) and offset. The job needs job-dismiss.',
    arguments: struct('x-compare-arg', {
      'job-id': required(str, 'Job id.'),
      node: required(str, 'Name of a node.'),
      other: required(str, 'Name of the other node.'),
      strict: optional(bool, 'Size and what is allocated must be alike too.', { default: false }),
    }),
  }),
}
