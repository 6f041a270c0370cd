// SPDX-License-Identifier: Apache-2.0
// The life of a job as two tables: which state may follow which, and which verbs each state accepts.
// Used by Job, which never changes its state but through these. Pure.
// The states and their meaning are those of QEMU's job layer; jobs outside of groups pass through 'waiting'.

export type JobState =
  | 'created'
  | 'running'
  | 'paused'
  | 'ready'
  | 'standby'
  | 'waiting'
  | 'pending'
  | 'aborting'
  | 'concluded'
  | 'null'

export type JobVerb =
  | 'cancel'
  | 'pause'
  | 'resume'
  | 'set-speed'
  | 'change'
  | 'complete'
  | 'finalize'
  | 'dismiss'

const followers: Readonly<Record<JobState, readonly JobState[]>> = {
  created: ['running', 'aborting', 'null'],
  running: ['paused', 'ready', 'waiting', 'aborting'],
  paused: ['running'],
  ready: ['standby', 'waiting', 'aborting'],
  standby: ['ready'],
  waiting: ['pending', 'aborting'],
  pending: ['aborting', 'concluded'],
  aborting: ['concluded'],
  concluded: ['null'],
  null: [],
}

const working: readonly JobVerb[] = ['cancel', 'pause', 'resume', 'set-speed', 'change']

const verbs: Readonly<Record<JobState, readonly JobVerb[]>> = {
  created: working,
  running: working,
  paused: working,
  ready: [...working, 'complete'],
  standby: [...working, 'complete'],
  waiting: ['cancel'],
  pending: ['cancel', 'finalize'],
  aborting: [],
  concluded: ['dismiss'],
  null: [],
}

/** Whether a job in state `from` may become `to` in one step. */
export function mayFollow(from: JobState, to: JobState): boolean {
  return followers[from].includes(to)
}

/** Whether the state accepts the verb; further conditions are the job's. */
export function accepts(state: JobState, verb: JobVerb): boolean {
  return verbs[state].includes(verb)
}

/** What a user is told whose verb the state does not accept. */
export function refusal(id: string, state: JobState, verb: JobVerb): string {
  return `Job '${id}' in state '${state}' cannot accept command verb '${verb}'`
}

/** The work is done, and not applied yet. */
export function isDone(state: JobState): boolean {
  return state === 'waiting' || state === 'pending'
}

/** The work is over: nothing the worker says can change the job any more. */
export function isOver(state: JobState): boolean {
  return state === 'aborting' || state === 'concluded' || state === 'null'
}
