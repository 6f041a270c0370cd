// SPDX-License-Identifier: Apache-2.0
// Objects that nodes, jobs and servers refer to by id. Throttle groups have limits that workers are told; budgets have a
// bandwidth that jobs share; TLS credentials are read by who uses them; iothreads are accepted so that managers' set-ups
// work, but every disk has a worker of its own anyway.

import type { Arguments } from '../../protocol/schema/index.js'
import { isIdentifier } from '../common/identifier.js'
import type { ThrottleLimits } from '../common/throttle-limits.js'
import { CommandError } from '../errors.js'
import type { TlsSpec } from '../nbd/messages.js'
import {
  changedLimits,
  definedLimits,
  type GroupLimits,
  type GroupOptions,
  LIMIT_DEFAULTS,
  workerLimits,
} from './throttle-limits.js'

export type ObjectDefinition = Arguments<'object-add'>
type Property = string | number | boolean | Readonly<Record<string, number>>

const DEFAULTS = {
  'poll-max-ns': 32768,
  'poll-grow': 0,
  'poll-shrink': 0,
  'aio-max-batch': 0,
  'thread-pool-min': 0,
  'thread-pool-max': 64,
}

export class Objects {
  readonly #objects = new Map<string, ObjectDefinition>()

  /** @throws CommandError for ids and limits that are refused */
  add(definition: ObjectDefinition): void {
    const { id } = definition
    if (!isIdentifier(id)) throw new CommandError("Parameter 'id' expects an identifier")
    const whole = completed(definition)
    if (this.#objects.has(id))
      throw new CommandError(`attempt to add duplicate property '${id}' to object (type 'container')`)
    this.#objects.set(id, whole)
  }

  get(id: string): ObjectDefinition | undefined {
    return this.#objects.get(id)
  }

  remove(id: string): void {
    this.#objects.delete(id)
  }

  /** New limits of a throttle group that exists; what is left out stays. */
  setLimits(id: string, change: GroupOptions): void {
    const limits = changedLimits(this.#limits(id) ?? LIMIT_DEFAULTS, change)
    this.#objects.set(id, { 'qom-type': 'throttle-group', id, limits })
  }

  /** Limits as workers take them; undefined when there is no such group. */
  limits(id: string): ThrottleLimits | undefined {
    const limits = this.#limits(id)
    return limits && workerLimits(limits)
  }

  /** Bytes per second of a budget, 0 = no limit; undefined when there is none of that name. */
  bandwidth(id: string): number | undefined {
    const budget = this.#objects.get(id)
    return budget?.['qom-type'] === 'x-budget' ? budget.bandwidth : undefined
  }

  setBandwidth(id: string, bandwidth: number): void {
    checkBandwidth(bandwidth)
    this.#objects.set(id, { 'qom-type': 'x-budget', id, bandwidth })
  }

  #limits(id: string): GroupLimits | undefined {
    const group = this.#objects.get(id)
    return group?.['qom-type'] === 'throttle-group' ? { ...LIMIT_DEFAULTS, ...group.limits } : undefined
  }

  /**
   * TLS credentials of a server.
   * @throws CommandError when there are none of that name for a server
   */
  serverCredentials(id: string): TlsSpec {
    const found = this.#objects.get(id)
    if (found === undefined) throw new CommandError(`No TLS credentials with id '${id}'`)
    if (found['qom-type'] !== 'tls-creds-x509' && found['qom-type'] !== 'tls-creds-psk')
      throw new CommandError(`Object with id '${id}' is not TLS credentials`)
    if (found.endpoint !== 'server') throw new CommandError('Expected TLS credentials for a server endpoint')
    if (found['qom-type'] === 'tls-creds-psk') return { kind: 'psk', dir: found.dir, verifyPeer: false }
    return { kind: 'x509', dir: found.dir, verifyPeer: found['verify-peer'] ?? true }
  }

  /** By name. */
  list(): ObjectDefinition[] {
    return [...this.#objects.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }
}

/** Properties of an object as `qom-get` shows them, `type` first. */
export function propertiesOf(object: ObjectDefinition): Map<string, Property> {
  const properties = new Map<string, Property>([['type', object['qom-type']]])
  if (object['qom-type'] === 'throttle-group') {
    const limits: GroupLimits = { ...LIMIT_DEFAULTS, ...object.limits }
    properties.set('limits', limits)
    for (const [name, value] of Object.entries(limits)) properties.set(`x-${name}`, value)
    return properties
  }
  if (object['qom-type'] === 'iothread') {
    for (const [name, value] of Object.entries(DEFAULTS))
      properties.set(name, object[name as keyof typeof DEFAULTS] ?? value)
    return properties
  }
  if (object['qom-type'] === 'x-budget') return properties.set('bandwidth', object.bandwidth)
  properties.set('dir', object.dir).set('endpoint', object.endpoint ?? 'client')
  if (object['qom-type'] === 'tls-creds-psk') return properties.set('username', object.username ?? '')
  return properties.set('verify-peer', object['verify-peer'] ?? true)
}

/** Checked, and with all limits of a throttle group in one place. */
function completed(definition: ObjectDefinition): ObjectDefinition {
  if (definition['qom-type'] === 'x-budget') checkBandwidth(definition.bandwidth)
  if (definition['qom-type'] !== 'throttle-group') return definition
  return { 'qom-type': 'throttle-group', id: definition.id, limits: definedLimits(definition) }
}

function checkBandwidth(bandwidth: number): void {
  if (bandwidth < 0) throw new CommandError("Parameter 'bandwidth' expects a non-negative value")
}
