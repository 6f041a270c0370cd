// SPDX-License-Identifier: Apache-2.0
// blkdebug and x-inject: filters that make requests fail. blkdebug has the reference daemon's spelling (the part of
// it that is independent of a format); x-inject counts calls, and can delay, hold and tear them.

import { arrayOf, bool, enumOf, int, type Members, optional, required, size, struct } from '../types.js'
import { blockdevRef } from './definition.js'

const iotype = enumOf('BlkdebugIOType', ['read', 'write', 'write-zeroes', 'discard', 'flush', 'block-status'])

const injectError = struct('BlkdebugInjectErrorOptions', {
  event: required(enumOf('BlkdebugEvent', ['none']), 'When: none = at every request.'),
  iotype: optional(iotype, 'Requests that fail; default: read, write, write-zeroes, discard and flush.'),
  errno: optional(int, 'Error number, as Linux counts.', { default: 5 }),
  sector: optional(int, 'Only requests that touch this sector of 512 bytes; -1 = all.', { default: -1 }),
  once: optional(bool, 'Only the first such request.', { default: false }),
  immediately: optional(bool, 'Accepted; requests always fail before anything is submitted.', {
    default: false,
  }),
})

const blkdebugOptions = {
  image: required(blockdevRef, 'Node that is disturbed.'),
  align: optional(int, 'Alignment asked of requests, bytes, a power of two.'),
  'inject-error': optional(arrayOf(injectError), 'Requests that fail.'),
} satisfies Members

const rule = struct('x-InjectRule', {
  op: required(
    enumOf('x-InjectOp', ['read', 'write', 'zero', 'discard', 'status', 'flush', 'open', 'close']),
    'Calls that are counted.',
  ),
  nth: optional(int, 'First call that is hit, counted from 1.', { default: 1 }),
  count: optional(int, 'How many calls from there on are hit; 0 = for ever.', { default: 1 }),
  errno: optional(int, 'Error number the call fails with, as Linux counts; absent or 0: it succeeds.'),
  'delay-ms': optional(int, 'Time the call is held, milliseconds.', { default: 0 }),
  stall: optional(bool, 'Hold the call until the node is reopened with other rules.', { default: false }),
  tear: optional(size, 'Bytes of a write that really reach the child.'),
})

const injectOptions = {
  file: required(blockdevRef, 'Node that is disturbed.'),
  rules: required(arrayOf(rule), 'Looked at in order; the first that hits decides.'),
} satisfies Members

export const blkdebug = { options: blkdebugOptions }
export const inject = { options: injectOptions }
