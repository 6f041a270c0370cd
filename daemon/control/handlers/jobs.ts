// SPDX-License-Identifier: Apache-2.0
// The verbs of both job families and the job queries. All but pause, finalize and the cancel of a pending job answer
// at once; what follows is told by events.

import type { Handlers } from '../commands.js'
import type { Jobs } from '../jobs/jobs.js'
import { isBlockJob } from '../jobs/plan.js'
import { blockJobInfo, jobInfo } from '../jobs/show.js'

export function jobHandlers(jobs: Jobs) {
  return {
    'query-jobs': () => jobs.list().map(jobInfo),
    'job-pause': ({ id }) => jobs.find(id).pause(),
    'job-resume': ({ id }) => jobs.find(id).resume(),
    'job-cancel': ({ id }) => jobs.findToCancel(id).cancel(true),
    'job-complete': ({ id }) => jobs.find(id).complete(),
    'job-finalize': ({ id }) => jobs.find(id).finalize(),
    'job-dismiss': ({ id }) => jobs.find(id).dismiss(),
  } satisfies Handlers
}

export function blockJobHandlers(jobs: Jobs) {
  return {
    'query-block-jobs': () =>
      jobs
        .list()
        .filter(({ plan }) => isBlockJob(plan.type))
        .map(blockJobInfo),
    'block-job-set-speed': ({ device, speed }) => jobs.findPaced(device).setSpeed(speed),
    'block-job-cancel': ({ device, force }) => jobs.findBlockToCancel(device).cancel(force ?? false),
    'block-job-pause': ({ device }) => jobs.findBlock(device).pause(),
    'block-job-resume': ({ device }) => jobs.findBlock(device).resume(),
    'block-job-complete': ({ device }) => jobs.findBlock(device).complete(),
    'block-job-finalize': ({ id }) => jobs.findBlock(id).finalize(),
    'block-job-dismiss': ({ id }) => jobs.findBlock(id).dismiss(),
    // Another type than mirror falls through to the default copy mode, as in QEMU.
    'block-job-change': (args) =>
      jobs.findBlock(args.id).change(args.type === 'mirror' ? args['copy-mode'] : 'background'),
  } satisfies Handlers
}
