// SPDX-License-Identifier: Apache-2.0
// Events: QMP events, or JSON-RPC notifications of the same name.

import { convergenceEvents } from './convergence.js'
import { exportEvents } from './exports.js'
import { jobStatus, jobType } from './jobs.js'
import { migrateEvents } from './migrate.js'
import { bool, enumOf, event, int, type Members, optional, required, str, struct } from './types.js'

const blockJobFields = {
  type: required(jobType, 'Kind of job.'),
  device: required(str, 'Job id.'),
  len: required(int, 'Work known at that moment, bytes.'),
  offset: required(int, 'Work done at that moment, bytes.'),
  speed: required(int, 'Speed limit at that moment, bytes per second, 0 = none.'),
} satisfies Members

export const events = {
  JOB_STATUS_CHANGE: event({
    doc: 'A job entered another state.',
    data: struct('JOB_STATUS_CHANGE-arg', {
      id: required(str, 'Job id.'),
      status: required(jobStatus, 'The new state.'),
    }),
  }),
  BLOCK_JOB_READY: event({
    doc: 'Source and target are equal and kept so; the job may be completed.',
    data: struct('BLOCK_JOB_READY-arg', blockJobFields),
  }),
  BLOCK_JOB_PENDING: event({
    doc: 'The work is done; job-finalize is awaited.',
    data: struct('BLOCK_JOB_PENDING-arg', {
      type: required(jobType, 'Kind of job.'),
      id: required(str, 'Job id.'),
    }),
  }),
  BLOCK_JOB_COMPLETED: event({
    doc: 'The job is over; with success when there is no error.',
    data: struct('BLOCK_JOB_COMPLETED-arg', {
      ...blockJobFields,
      error: optional(str, 'Why it failed.'),
    }),
  }),
  BLOCK_JOB_CANCELLED: event({
    doc: 'The job was cancelled; the target is incomplete.',
    data: struct('BLOCK_JOB_CANCELLED-arg', blockJobFields),
  }),
  BLOCK_JOB_ERROR: event({
    doc: 'A read or write of a job failed.',
    data: struct('BLOCK_JOB_ERROR-arg', {
      device: required(str, 'Job id.'),
      operation: required(
        enumOf('IoOperationType', ['read', 'write']),
        'read: the source; write: the target.',
      ),
      action: required(
        enumOf('BlockErrorAction', ['ignore', 'report', 'stop']),
        'What the policy makes of it: go on, fail, pause.',
      ),
    }),
  }),
  BLOCK_IMAGE_CORRUPTED: event({
    doc: 'An image contradicts its format. Told once for each way an open image is found to do so.',
    data: struct('BLOCK_IMAGE_CORRUPTED-arg', {
      device: required(str, 'Empty: nodes have no devices here.'),
      'node-name': optional(str, 'Node of the image.'),
      msg: required(str, 'What is wrong.'),
      offset: optional(int, 'Where, bytes.'),
      size: optional(int, 'How much, bytes.'),
      fatal: required(bool, 'The image was marked corrupt and is not written any more.'),
    }),
  }),
  ...exportEvents,
  ...migrateEvents,
  ...convergenceEvents,
  'x-events-lost': event({
    doc: 'This client did not read for so long that events for it had to be dropped; queries tell the present state.',
    data: struct('x-events-lost-arg', {
      count: required(int, 'Events dropped since the last one it was sent.'),
    }),
    extension: true,
  }),
}
