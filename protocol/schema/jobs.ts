// SPDX-License-Identifier: Apache-2.0
// Jobs: their states, the two families of verbs and the two lists.

import { convergence } from './convergence.js'
import { copyMode } from './mirror.js'
import {
  any,
  arrayOf,
  bool,
  command,
  enumOf,
  int,
  type Members,
  optional,
  required,
  str,
  struct,
  union,
} from './types.js'

export const jobType = enumOf('JobType', [
  'commit',
  'stream',
  'mirror',
  'backup',
  'create',
  'amend',
  'snapshot-load',
  'snapshot-save',
  'snapshot-delete',
  'x-check',
  'x-bench',
  'x-compare',
  'x-resize',
  'x-memory-save',
  'x-memory-restore',
  'x-memory-convert',
  'x-memory-inspect',
  'x-migrate',
])

export const jobStatus = enumOf('JobStatus', [
  'undefined',
  'created',
  'running',
  'paused',
  'ready',
  'standby',
  'waiting',
  'pending',
  'aborting',
  'concluded',
  'null',
])

const ioStatus = enumOf('BlockDeviceIoStatus', ['ok', 'failed', 'nospace'])

const jobPhase = enumOf('x-JobPhase', ['probe', 'zero', 'bulk', 'converge', 'ready', 'flush'])

/** The request that waits longest in the kernel; also in query-blockstats. */
export const oldestRequest = struct('x-OldestRequest', {
  operation: required(str, 'What was asked of storage: open, read, write, zero, discard, status, flush, ….'),
  node: required(str, 'Name of the node.'),
  'age-ms': required(int, 'Time since it was submitted, milliseconds.'),
})

const durations = struct('x-JobDurations', {
  probe: optional(int, 'Finding out what the images can do, milliseconds.'),
  zero: optional(int, 'Zeroing the target, milliseconds.'),
  bulk: optional(int, 'First pass over the image, milliseconds.'),
  converge: optional(int, 'Copying what was written meanwhile, milliseconds.'),
  ready: optional(int, 'Equal, waiting to be completed, milliseconds.'),
  flush: optional(int, 'Making everything durable, milliseconds.'),
})

const receipt = struct('x-JobReceipt', {
  'bytes-copied': required(int, 'Bytes read from the source and written to the target.'),
  'bytes-zeroed': required(int, 'Bytes made zero on the target without writing data.'),
  'bytes-skipped': required(int, 'Bytes left alone because the target was proved to read as zero there.'),
  flush: required(
    enumOf('x-FlushResult', ['ok', 'failed', 'not-reached', 'disabled']),
    'Whether the target was flushed; disabled: its cache.no-flush was on.',
  ),
  durations: required(durations, 'Time spent in each phase that was entered.'),
})

const progressExtensions = {
  'x-phase': optional(jobPhase, 'What the job is doing.'),
  'x-rate': optional(int, 'Bytes per second over the last seconds.'),
  'x-eta': optional(int, 'Seconds until offset reaches len at this rate; absent when nothing moves.'),
  'x-budget': optional(str, 'The budget that it shares with other jobs.'),
  'x-share': optional(int, 'Its present part of the budget, bytes per second, 0 = no limit.'),
  'x-convergence': optional(convergence, 'Of a mirror: whether it gets done while its source is in use.'),
  'x-oldest-request': optional(oldestRequest, 'The request that waits longest, when one does.'),
  'x-receipt': optional(receipt, 'What the job did, once it has ended.'),
  'x-result': optional(
    any,
    'An object: what the job found out, once it has ended; see the command that starts it.',
  ),
} satisfies Members

export const jobInfo = struct('JobInfo', {
  id: required(str, 'Job id.'),
  type: required(jobType, 'Kind of job.'),
  status: required(jobStatus, 'State.'),
  'current-progress': required(int, 'Work done, bytes for copying jobs.'),
  'total-progress': required(int, 'Work known so far, same unit; may grow.'),
  error: optional(str, 'Why it failed or was cancelled.'),
  ...progressExtensions,
})

export const blockJobInfo = union(
  'BlockJobInfo',
  {
    type: required(jobType, 'Kind of job.'),
    device: required(str, 'Job id.'),
    len: required(int, 'Work known so far, bytes; may grow.'),
    offset: required(int, 'Work done, bytes.'),
    busy: required(bool, 'A request of the job is in flight.'),
    paused: required(bool, 'Paused by the user, an error policy or a drain.'),
    speed: required(int, 'Limit in bytes per second, 0 = none.'),
    'io-status': required(ioStatus, 'The first error since the last resume.'),
    ready: required(bool, 'May be completed.'),
    status: required(jobStatus, 'State.'),
    'auto-finalize': required(bool, 'Finalizes itself.'),
    'auto-dismiss': required(bool, 'Leaves the list by itself.'),
    error: optional(str, 'Why it failed or was cancelled.'),
    ...progressExtensions,
  },
  'type',
  {
    mirror: {
      'actively-synced': required(
        bool,
        'Guest writes reach the target before they complete, and nothing is dirty.',
      ),
    },
  },
)

const jobVerb = (name: string, doc: string) =>
  command({ doc, arguments: struct(`${name}-arg`, { id: required(str, 'Job id.') }) })

const blockJobVerb = (name: string, doc: string) =>
  command({ doc, arguments: struct(`${name}-arg`, { device: required(str, 'Job id.') }) })

export const jobCommands = {
  'query-jobs': command({ doc: 'All jobs, newest first.', returns: arrayOf(jobInfo), oob: true }),
  'query-block-jobs': command({
    doc: 'Jobs that move data between nodes, newest first.',
    returns: arrayOf(blockJobInfo),
    oob: true,
  }),
  'job-pause': jobVerb('job-pause', 'Pauses a job; it stops once its requests in flight have ended.'),
  'job-resume': jobVerb('job-resume', 'Continues a job that was paused by the user or by an error policy.'),
  'job-cancel': jobVerb('job-cancel', 'Cancels a job in any state before concluded; always forced.'),
  'job-complete': jobVerb(
    'job-complete',
    'Asks a ready job to finish; a mirror pivots its users to the target.',
  ),
  'job-finalize': jobVerb('job-finalize', 'Applies the result of a pending job.'),
  'job-dismiss': jobVerb('job-dismiss', 'Removes a concluded job from the list.'),
  'block-job-set-speed': command({
    doc: 'Changes the speed limit of a job.',
    arguments: struct('block-job-set-speed-arg', {
      device: required(str, 'Job id.'),
      speed: required(int, 'Bytes per second, 0 = no limit.'),
    }),
  }),
  'block-job-cancel': command({
    doc: 'Cancels a job. A ready mirror ends with success and without pivot, unless force is set.',
    arguments: struct('block-job-cancel-arg', {
      device: required(str, 'Job id.'),
      force: optional(bool, 'Stop at once, whatever the state of the target.', { default: false }),
    }),
  }),
  'block-job-pause': blockJobVerb('block-job-pause', 'As job-pause.'),
  'block-job-resume': blockJobVerb('block-job-resume', 'As job-resume.'),
  'block-job-complete': blockJobVerb('block-job-complete', 'As job-complete.'),
  'block-job-finalize': jobVerb('block-job-finalize', 'As job-finalize.'),
  'block-job-dismiss': jobVerb('block-job-dismiss', 'As job-dismiss.'),
  'block-job-change': command({
    doc: 'Changes options of a running job.',
    arguments: union(
      'BlockJobChangeOptions',
      { id: required(str, 'Job id.'), type: required(jobType, 'Kind of job; says which options follow.') },
      'type',
      { mirror: { 'copy-mode': required(copyMode, 'Only from background to write-blocking.') } },
    ),
  }),
}
