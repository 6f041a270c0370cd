// SPDX-License-Identifier: Apache-2.0
// Objects that nodes, jobs and servers refer to by id. Throttle groups have limits that workers are told; budgets have a
// bandwidth that jobs share; TLS credentials and rules about clients are read by who uses them; iothreads are accepted
// so that managers' set-ups work, but every disk has a worker of its own anyway.

import { authzListFrom } from '../../protocol/authz.js'
import type { Arguments } from '../../protocol/schema/index.js'
import { isIdentifier } from '../common/identifier.js'
import type { ThrottleLimits } from '../common/throttle-limits.js'
import { CommandError } from '../errors.js'
import type { AuthzSpec } from '../nbd/messages.js'
import type { CredentialsPlace } from '../tls/messages.js'
import {
  changedLimits,
  definedLimits,
  type GroupLimits,
  type GroupOptions,
  LIMIT_DEFAULTS,
  workerLimits,
} from './throttle-limits.js'

export type ObjectDefinition = Arguments<'object-add'>
type Property = string | number | boolean | Readonly<Record<string, number>> | Record<string, string>[]

/** Defaults of QEMU. */
const PSK_FILE = 'keys.psk'
const PSK_USER = 'qemu'
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
    if (definition['qom-type'] === 'tls-creds-psk' && definition.endpoint === 'server')
      if (definition.username !== undefined)
        throw new CommandError('username should not be set when endpoint=server')
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
   * TLS credentials of one end.
   * @throws CommandError when there are none of that name for it
   */
  credentials(id: string, end: 'client' | 'server'): CredentialsPlace {
    const found = this.#objects.get(id)
    if (found === undefined) throw new CommandError(`No TLS credentials with id '${id}'`)
    if (found['qom-type'] !== 'tls-creds-x509' && found['qom-type'] !== 'tls-creds-psk')
      throw new CommandError(`Object with id '${id}' is not TLS credentials`)
    if ((found.endpoint ?? 'client') !== end)
      throw new CommandError(`Expected TLS credentials for a ${end} endpoint`)
    const { dir } = found
    if (found['qom-type'] === 'tls-creds-x509')
      return { kind: 'x509', dir, verifyPeer: found['verify-peer'] ?? true }
    return { kind: 'psk', dir, file: found['x-file'] ?? PSK_FILE, username: found.username ?? PSK_USER }
  }

  /** Rules about clients, as they are now. */
  authorization(id: string): AuthzSpec {
    const found = this.#objects.get(id)
    switch (found?.['qom-type']) {
      case undefined:
        return { kind: 'nobody', why: `Cannot find QAuthZ object ID ${id}` }
      case 'authz-simple':
        return { kind: 'simple', identity: found.identity }
      case 'authz-list':
        return { kind: 'list', ...authzListFrom(found) }
      case 'authz-list-file':
        return { kind: 'file', filename: found.filename, refresh: found.refresh ?? true }
      default:
        return { kind: 'nobody', why: `Object '${id}' is not a QAuthZ subclass` }
    }
  }

  /** By name. */
  list(): ObjectDefinition[] {
    return [...this.#objects.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }
}

/** Properties of an object as `qom-get` shows them, `type` first. */
export function propertiesOf(object: ObjectDefinition): Map<string, Property> {
  return new Map<string, Property>([['type', object['qom-type']], ...Object.entries(ownProperties(object))])
}

function ownProperties(object: ObjectDefinition): Readonly<Record<string, Property>> {
  switch (object['qom-type']) {
    case 'throttle-group':
      return groupProperties({ ...LIMIT_DEFAULTS, ...object.limits })
    case 'x-budget':
      return { bandwidth: object.bandwidth }
    case 'iothread':
      return Object.fromEntries(
        Object.entries(DEFAULTS).map(([name, value]) => [
          name,
          object[name as keyof typeof DEFAULTS] ?? value,
        ]),
      )
    case 'tls-creds-x509':
      return { ...placeOf(object), 'verify-peer': object['verify-peer'] ?? true }
    case 'tls-creds-psk':
      return { ...placeOf(object), username: object.username ?? '', 'x-file': object['x-file'] ?? PSK_FILE }
    case 'authz-simple':
      return { identity: object.identity }
    case 'authz-list':
      return { policy: object.policy ?? 'deny', rules: (object.rules ?? []).map((rule) => ({ ...rule })) }
    case 'authz-list-file':
      return { filename: object.filename, refresh: object.refresh ?? true }
    default:
      return object satisfies never
  }
}

function groupProperties(limits: GroupLimits): Readonly<Record<string, Property>> {
  const own = Object.entries(limits).map(([name, value]) => [`x-${name}`, value] as const)
  return { limits, ...Object.fromEntries(own) }
}

function placeOf({
  dir,
  endpoint = 'client',
}: {
  readonly dir: string
  readonly endpoint?: 'client' | 'server' | undefined
}) {
  return { dir, endpoint }
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
