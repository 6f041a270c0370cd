// SPDX-License-Identifier: Apache-2.0
// blockdev-create: a job that makes an image. What each driver can make stands in its own file.

import { blockdevDriver, drivers } from './drivers/index.js'
import { qcow2Create } from './drivers/qcow2-create.js'
import { command, optional, required, str, struct, union } from './types.js'

const createOptions = union(
  'BlockdevCreateOptions',
  { driver: required(blockdevDriver, 'Driver that makes the image.') },
  'driver',
  {
    file: drivers.file.create,
    qcow2: { ...qcow2Create, 'backing-fmt': optional(blockdevDriver, 'Format of the backing file.') },
  },
)

export const createCommands = {
  'blockdev-create': command({
    doc: 'Makes an image, as a job; whether it worked is in query-jobs. The job needs job-dismiss.',
    arguments: struct('blockdev-create-arg', {
      'job-id': required(str, 'Job id.'),
      options: required(createOptions, 'What to make.'),
    }),
  }),
}
