// SPDX-License-Identifier: Apache-2.0
// Objects that nodes and servers refer to by id. Throttle groups have limits that workers are told; TLS credentials and
// rules about clients are read by who uses them; iothreads are accepted so that managers' set-ups work, but every disk has a worker of its own
// anyway.

import { authzListFrom } from '../../protocol/authz.js'
import type { Arguments } from '../../protocol/schema/index.js'
import { isIdentifier } from '../common/identifier.js'
import { CommandError } from '../errors.js'
import type { ThrottleLimits } from '../iothread/messages.js'
import type { AuthzSpec } from '../nbd/messages.js'
import type { CredentialsPlace } from '../tls/messages.js'

export type ObjectDefinition = Arguments<'object-add'>
export type GroupOptions = NonNullable<Extract<ObjectDefinition, { 'qom-type': 'throttle-group' }>['limits']>
type Property = string | number | boolean | Readonly<Record<string, number>> | Record<string, string>[]

/** Defaults of QEMU. */
const PSK_FILE = 'keys.psk'
const PSK_USER = 'qemu'
const MOST = 1e15
const KINDS = ['total', 'read', 'write'] as const
const UNITS = ['bps', 'iops'] as const
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
    if (definition['qom-type'] === 'throttle-group') checkLimits(definition.limits ?? {})
    if (definition['qom-type'] === 'tls-creds-psk' && definition.endpoint === 'server')
      if (definition.username !== undefined)
        throw new CommandError('username should not be set when endpoint=server')
    if (this.#objects.has(id))
      throw new CommandError(`attempt to add duplicate property '${id}' to object (type 'container')`)
    this.#objects.set(id, definition)
  }

  get(id: string): ObjectDefinition | undefined {
    return this.#objects.get(id)
  }

  remove(id: string): void {
    this.#objects.delete(id)
  }

  /** New limits of a throttle group that exists; what is left out is lifted. */
  setLimits(id: string, limits: GroupOptions): void {
    checkLimits(limits)
    this.#objects.set(id, { 'qom-type': 'throttle-group', id, limits })
  }

  /** Limits as workers take them; undefined when there is no such group. */
  limits(id: string): ThrottleLimits | undefined {
    const group = this.#objects.get(id)
    if (group?.['qom-type'] !== 'throttle-group') return undefined
    const options = group.limits ?? {}
    return {
      bpsTotal: options['bps-total'] ?? 0,
      bpsRead: options['bps-read'] ?? 0,
      bpsWrite: options['bps-write'] ?? 0,
      iopsTotal: options['iops-total'] ?? 0,
      iopsRead: options['iops-read'] ?? 0,
      iopsWrite: options['iops-write'] ?? 0,
    }
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
      return { limits: allLimits(object.limits ?? {}) }
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

function placeOf({
  dir,
  endpoint = 'client',
}: {
  readonly dir: string
  readonly endpoint?: 'client' | 'server' | undefined
}) {
  return { dir, endpoint }
}

function allLimits(options: GroupOptions): Record<string, number> {
  const limits: Record<string, number> = { 'iops-size': 0 }
  for (const unit of UNITS)
    for (const kind of KINDS) {
      limits[`${unit}-${kind}`] = options[`${unit}-${kind}`] ?? 0
      limits[`${unit}-${kind}-max`] = 0
      limits[`${unit}-${kind}-max-length`] = 1
    }
  return limits
}

function checkLimits(options: GroupOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && (value < 0 || value > MOST))
      throw new CommandError('bps/iops/max values must be within [0, 1000000000000000]')
    const neutral = name.endsWith('-length') ? 1 : 0
    if (/-(max|max-length|size)$/.test(name) && value !== neutral)
      throw new CommandError(`Parameter '${name}' is not supported: there are no bursts`)
  }
  for (const unit of UNITS)
    if (options[`${unit}-total`] && (options[`${unit}-read`] || options[`${unit}-write`]))
      throw new CommandError(
        'bps/iops/max total values and read/write values cannot be used at the same time',
      )
}
