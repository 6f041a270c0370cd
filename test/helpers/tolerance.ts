// SPDX-License-Identifier: Apache-2.0
// Decides whether two control sessions say the same. Used by replay.ts; pure.
// Ignored: member order, times and rates, generated names, package and version numbers, members and events starting with `x-`,
// progress of jobs that had not ended well, pairs of pause and resume that a drain makes, and how far a reply moved
// among the events of a job where no order is promised. Everything else is a finding.

export type Json = null | boolean | string | number | readonly Json[] | { readonly [member: string]: Json }
export type JsonObject = { readonly [member: string]: Json }

/** One received line: its text, the step during which it stood or came, and its value with the noise removed. */
export interface Heard {
  readonly step: number
  readonly value: Json
}

/** Names given by the program (`#block123`), numbered in order of appearance. One for each session and side. */
export class Names {
  readonly #seen = new Map<string, string>()

  number(text: string): string {
    return text.replace(/#block\d+/g, (name) => {
      const known = this.#seen.get(name) ?? `#block${this.#seen.size + 1}`
      this.#seen.set(name, known)
      return known
    })
  }
}

/** Marks a number, so that 1 and 1.0 and 9007199254740993 stay what they are. */
const NUMBER = '\ue000'
const VOLATILE =
  /^(seconds|microseconds|actual-size|.*_time_ns|thread-id|pid|fd|major|minor|micro|downtime|(total|setup)-time|mbps|pages-per-second)$/
const ENDED_WELL = new Set(['ready', 'standby', 'pending'])

/** @returns the value with numbers as marked strings, or the text itself when it is not JSON. */
export function readLine(text: string, names: Names, directory: string): Json {
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) =>
    token.startsWith('"') ? token : `"${NUMBER}${token}"`,
  )
  try {
    return tidy(JSON.parse(marked), '', names, directory)
  } catch {
    return text.replaceAll(directory, '$DIR')
  }
}

function tidy(value: Json, member: string, names: Names, directory: string): Json {
  if (Array.isArray(value)) {
    const list = value.map((each: Json) => tidy(each, '', names, directory))
    return list.length > 20 && list.every(isCommandName) ? 'list of commands' : list
  }
  if (typeof value === 'string') return tidyText(value, member, names, directory)
  if (!isObject(value)) return value
  const dropped = droppedMembers(value)
  const entries = Object.entries(value)
    .filter(([key]) => !key.startsWith('x-') && !dropped.has(key))
    .map(([key, each]) => [key, tidy(each, key, names, directory)] as const)
  return Object.fromEntries(entries)
}

function tidyText(text: string, member: string, names: Names, directory: string): Json {
  if (text.startsWith(NUMBER)) return VOLATILE.test(member) ? 0 : text
  if (member === 'package') return '$PACKAGE'
  return names.number(text.replaceAll(directory, '$DIR'))
}

/** Members that say how far something happened to be, in a job of a query or in the event of a job that failed. */
function droppedMembers(object: JsonObject): ReadonlySet<string> {
  if ('QMP' in object) return new Set(['jsonrpc', 'method', 'params'])
  const status = object.status
  const isJob = typeof status === 'string' && ('current-progress' in object || 'io-status' in object)
  if (isJob && (!ENDED_WELL.has(status) || 'error' in object)) {
    return status === 'concluded' && !('error' in object)
      ? new Set()
      : new Set(['offset', 'current-progress', 'busy'])
  }
  return new Set()
}

function isCommandName(value: Json): boolean {
  return isObject(value) && Object.keys(value).length === 1 && typeof value.name === 'string'
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function isReply(value: Json): boolean {
  return !isObject(value) || 'return' in value || 'error' in value
}

/** An event that the reference does not have. */
export function isOurs(value: Json): boolean {
  return isObject(value) && String(value.event).startsWith('x-')
}

export function isJobError(value: Json): boolean {
  return isObject(value) && value.event === 'BLOCK_JOB_ERROR'
}

/** Name of the job an event tells of, or the event's own name where it tells of none. */
export function subject(value: Json): string {
  if (!isObject(value)) return ''
  const data = value.data
  const job = isObject(data) ? (data.id ?? data.device) : undefined
  return typeof job === 'string' ? `job ${job}` : `event ${String(value.event)}`
}

/**
 * Removes the pairs paused, running and standby, ready that one step made, in the order of one job's events; and all passes
 * over a guest's memory but the first: how many there are is chance.
 */
export function withoutFlicker(events: readonly Heard[]): Heard[] {
  const kept: Heard[] = []
  for (const event of events) {
    if (isLaterPass(event.value)) continue
    const before = kept.at(-1)
    const pair =
      before && before.step === event.step ? `${statusOf(before.value)} ${statusOf(event.value)}` : ''
    if (pair === 'paused running' || pair === 'standby ready') kept.pop()
    else kept.push(event)
  }
  return kept
}

function isLaterPass(value: Json): boolean {
  if (!isObject(value) || value.event !== 'MIGRATION_PASS') return false
  return isObject(value.data) && value.data.pass !== '1'
}

export function statusOf(value: Json): string | undefined {
  if (!isObject(value) || value.event !== 'JOB_STATUS_CHANGE') return undefined
  const data = value.data
  return isObject(data) && typeof data.status === 'string' ? data.status : undefined
}

/** Events of a job that ended badly say how far it came; that is chance. */
export function withoutChance(value: Json): Json {
  if (!isObject(value)) return value
  const data = value.data
  const chance =
    value.event === 'BLOCK_JOB_CANCELLED' ||
    (value.event === 'BLOCK_JOB_COMPLETED' && isObject(data) && 'error' in data)
  if (!chance || !isObject(data)) return value
  return { ...value, data: Object.fromEntries(Object.entries(data).filter(([key]) => key !== 'offset')) }
}

/** Equal whatever the order of members. */
export function same(one: Json, other: Json): boolean {
  return canonical(one) === canonical(other)
}

export function canonical(value: Json): string {
  return JSON.stringify(value, (_key, each: Json) =>
    isObject(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : typeof each === 'string' && each.startsWith(NUMBER)
        ? each.slice(NUMBER.length)
        : each,
  )
}
