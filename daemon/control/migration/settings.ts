// SPDX-License-Identifier: Apache-2.0
// Capabilities and parameters of migration: what is set, and what is refused with QEMU 10.0's words. Pure.

import {
  type ChangedParameters,
  type MigrationCapability,
  type MigrationParameters,
  migrationCapability,
  migrationParameters,
} from '../../../protocol/schema/migrate.js'
import { CommandError } from '../../errors.js'

/** The daemon cannot play its part in these. */
const UNSUPPORTED: ReadonlySet<MigrationCapability> = new Set([
  'rdma-pin-all',
  'x-colo',
  'postcopy-blocktime',
  'postcopy-preempt',
  'zero-copy-send',
])
/** Files of fixed places have no room for these. */
const NOT_MAPPED = [
  ['xbzrle', 'xbzrle'],
  ['postcopy-ram', 'postcopy'],
] as const
const TLS = ['tls-creds', 'tls-hostname', 'tls-authz'] as const
const NO_TLS = { 'tls-creds': '', 'tls-hostname': '', 'tls-authz': '' } as const

/** `[parameter, least, most, what is expected]`; QEMU writes the names with underscores here. */
const RANGES = [
  ['multifd-channels', 1, 255, 'a value between 1 and 255'],
  ['downtime-limit', 0, 2_000_000, 'an integer in the range of 0 to (2000 * 1000) ms'],
  ['multifd-zlib-level', 0, 9, 'a value between 0 and 9'],
  ['multifd-zstd-level', 0, 20, 'a value between 0 and 20'],
  ['multifd-qatzip-level', 1, 9, 'a value between 1 and 9'],
  ['cpu-throttle-initial', 1, 99, 'an integer in the range of 1 to 99'],
  ['cpu-throttle-increment', 1, 99, 'an integer in the range of 1 to 99'],
  ['throttle-trigger-threshold', 1, 100, 'an integer in the range of 1 to 100'],
] as const

type Defaults = { readonly [N in keyof MigrationParameters]-?: NonNullable<MigrationParameters[N]> }

export class MigrationSettings {
  #on: ReadonlySet<MigrationCapability> = new Set()
  #parameters = defaults()

  get parameters(): Defaults {
    return this.#parameters
  }

  has(capability: MigrationCapability): boolean {
    return this.#on.has(capability)
  }

  capabilities(): { capability: MigrationCapability; state: boolean }[] {
    return migrationCapability.values.map((capability) => ({ state: this.has(capability), capability }))
  }

  /** @throws CommandError, and then none is changed */
  setCapabilities(changes: readonly { capability: MigrationCapability; state: boolean }[]): void {
    for (const { capability, state } of changes)
      if (state && UNSUPPORTED.has(capability))
        throw new CommandError(`Migration capability '${capability}' is not supported`)
    const wanted = new Set(this.#on)
    for (const { capability, state } of changes) {
      if (state) wanted.add(capability)
      else wanted.delete(capability)
    }
    for (const [capability, name] of NOT_MAPPED)
      if (wanted.has('mapped-ram') && wanted.has(capability))
        throw new CommandError(`Mapped-ram migration is incompatible with ${name}`)
    this.#on = wanted
  }

  /** @throws CommandError, and then none is changed */
  setParameters(changes: ChangedParameters): void {
    for (const [name, least, most, expected] of RANGES) {
      const value = changes[name]
      if (value !== undefined && (value < least || value > most)) throw outOfRange(name, expected)
    }
    for (const name of TLS)
      if ((changes[name] ?? '') !== '')
        throw new CommandError(`Parameter '${name}' must be empty: migration over TLS is not supported`)
    const wanted = { ...this.#parameters, ...changes, ...NO_TLS }
    const [initial, most] = [wanted['cpu-throttle-initial'], wanted['max-cpu-throttle']]
    if (most < initial || most > 99)
      throw outOfRange('max-cpu-throttle', 'an integer in the range of cpu_throttle_initial to 99')
    this.#parameters = wanted
  }
}

function outOfRange(name: string, expected: string): CommandError {
  return new CommandError(`Parameter '${name.replaceAll('-', '_')}' expects ${expected}`)
}

function defaults(): Defaults {
  const values = Object.entries(migrationParameters).map(([name, member]) => [name, member.default])
  return Object.fromEntries(values) as unknown as Defaults
}
