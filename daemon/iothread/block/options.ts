// SPDX-License-Identifier: Apache-2.0
// Options that every node has, read from its specification. Used by the graph when it opens and reopens nodes.
// The schema has checked types on the main thread; a value of another type here is a bug.

import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../messages.js'
import type { Role } from './records.js'

export interface NodeOptions {
  readonly readOnly: boolean
  /** Fall back to read-only where writing is not allowed. */
  readonly autoReadOnly: boolean
  /** Whether discards, and zeroes that may unmap, are passed on. */
  readonly discard: 'ignore' | 'unmap'
  readonly detectZeroes: 'off' | 'on' | 'unmap'
  readonly noFlush: boolean
  readonly direct: boolean
  /** Open although others write; needs readOnly. */
  readonly forceShare: boolean
}

/**
 * @throws CommandError for combinations that are refused
 */
export function nodeOptions(spec: NodeSpec): NodeOptions {
  const cache = spec.cache as { direct?: boolean; 'no-flush'?: boolean } | undefined
  const options: NodeOptions = {
    readOnly: flag(spec, 'read-only'),
    autoReadOnly: flag(spec, 'auto-read-only'),
    discard: (spec.discard as NodeOptions['discard'] | undefined) ?? 'ignore',
    detectZeroes: (spec['detect-zeroes'] as NodeOptions['detectZeroes'] | undefined) ?? 'off',
    noFlush: cache?.['no-flush'] ?? false,
    direct: cache?.direct ?? false,
    forceShare: flag(spec, 'force-share'),
  }
  if (options.detectZeroes === 'unmap' && options.discard !== 'unmap') {
    throw new CommandError(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    )
  }
  if (spec.active === false)
    throw new CommandError(
      `Inactive nodes are not supported: 'active' of '${spec['node-name']}' must be true`,
    )
  if (options.forceShare && !options.readOnly) {
    throw new CommandError('force-share=on can only be used with read-only images')
  }
  return options
}

/**
 * Specification of an inline child with what it inherits: read-only state, cache mode and sharing of its parent
 * where it says nothing itself. `discard` defaults to unmap below a parent: the parent decides what it passes on.
 * A backing file is only read.
 */
export function inherit(role: Role, parent: NodeOptions, child: NodeSpec): NodeSpec {
  const cache = child.cache as { direct?: boolean; 'no-flush'?: boolean } | undefined
  const own =
    role === 'backing'
      ? { 'read-only': true, 'auto-read-only': false }
      : { 'read-only': parent.readOnly, 'auto-read-only': parent.autoReadOnly, discard: 'unmap' }
  return {
    ...own,
    'force-share': parent.forceShare,
    ...child,
    cache: {
      direct: cache?.direct ?? parent.direct,
      'no-flush': cache?.['no-flush'] ?? parent.noFlush,
    },
  }
}

function flag(spec: NodeSpec, name: string): boolean {
  return (spec[name] as boolean | undefined) ?? false
}

/**
 * A number of bytes among the options.
 * @throws CommandError for a negative one
 */
export function sizeOption<D extends number | undefined>(
  spec: NodeSpec,
  name: string,
  missing: D,
): number | D {
  const value = spec[name] as number | undefined
  if (value !== undefined && value < 0) {
    throw new CommandError(`Value '${value}' is out of range for parameter '${name}'`)
  }
  return value ?? missing
}
