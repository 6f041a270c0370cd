// SPDX-License-Identifier: Apache-2.0
// Objects that nodes and servers refer to by id. Throttle groups have limits that workers are told; TLS credentials are
// read by who uses them; iothreads are accepted so that managers' set-ups work, but every disk has a worker of its own
// anyway.

import type { Arguments } from '../../protocol/schema/index.js'
import { isIdentifier } from '../common/identifier.js'
import { CommandError } from '../errors.js'
import type { ThrottleLimits } from '../iothread/messages.js'
import type { TlsSpec } from '../nbd/messages.js'

export type ObjectDefinition = Arguments<'object-add'>
export type GroupOptions = NonNullable<Extract<ObjectDefinition, { 'qom-type': 'throttle-group' }>['limits']>
type Property = string | number | boolean | Readonly<Record<string, number>>

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
  if (object['qom-type'] === 'throttle-group') return properties.set('limits', allLimits(object.limits ?? {}))
  if (object['qom-type'] === 'iothread') {
    for (const [name, value] of Object.entries(DEFAULTS))
      properties.set(name, object[name as keyof typeof DEFAULTS] ?? value)
    return properties
  }
  properties.set('dir', object.dir).set('endpoint', object.endpoint ?? 'client')
  if (object['qom-type'] === 'tls-creds-psk') return properties.set('username', object.username ?? '')
  return properties.set('verify-peer', object['verify-peer'] ?? true)
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
