// SPDX-License-Identifier: Apache-2.0
// The verbs of both job families and the job queries. All but pause, finalize and the cancel of a pending job answer
// at once; what follows is told by events.

import type { CopyMode } from '../../iothread/messages.js'
import type { Jobs } from '../jobs/jobs.js'
import { blockJobInfo, jobInfo } from '../jobs/show.js'

interface ById {
  readonly id: string
}
interface ByDevice {
  readonly device: string
}

export function jobHandlers(jobs: Jobs) {
  return {
    'query-jobs': () => jobs.list().map(jobInfo),
    'job-pause': ({ id }: ById) => jobs.find(id).pause().then(nothing),
    'job-resume': ({ id }: ById) => nothing(jobs.find(id).resume()),
    'job-cancel': ({ id }: ById) => jobs.find(id).cancel(true).then(nothing),
    'job-complete': ({ id }: ById) => nothing(jobs.find(id).complete()),
    'job-finalize': ({ id }: ById) => jobs.find(id).finalize().then(nothing),
    'job-dismiss': ({ id }: ById) => nothing(jobs.find(id).dismiss()),
  }
}

export function blockJobHandlers(jobs: Jobs) {
  return {
    'query-block-jobs': () =>
      jobs
        .list()
        .filter((job) => job.plan.type === 'mirror')
        .map(blockJobInfo),
    'block-job-set-speed': ({ device, speed }: ByDevice & { readonly speed: number }) =>
      nothing(jobs.findBlock(device).setSpeed(speed)),
    'block-job-cancel': ({ device, force }: ByDevice & { readonly force?: boolean | undefined }) =>
      jobs
        .findBlock(device)
        .cancel(force ?? false)
        .then(nothing),
    'block-job-pause': ({ device }: ByDevice) => jobs.findBlock(device).pause().then(nothing),
    'block-job-resume': ({ device }: ByDevice) => nothing(jobs.findBlock(device).resume()),
    'block-job-complete': ({ device }: ByDevice) => nothing(jobs.findBlock(device).complete()),
    'block-job-finalize': ({ id }: ById) => jobs.findBlock(id).finalize().then(nothing),
    'block-job-dismiss': ({ id }: ById) => nothing(jobs.findBlock(id).dismiss()),
    // Another type than mirror falls through to the default copy mode, as in QEMU.
    'block-job-change': (args: ById & { readonly 'copy-mode'?: CopyMode | undefined }) =>
      nothing(jobs.findBlock(args.id).change(args['copy-mode'] ?? 'background')),
  }
}

/** The reply of commands that return nothing. */
function nothing(_done: unknown): Record<string, never> {
  return {}
}
