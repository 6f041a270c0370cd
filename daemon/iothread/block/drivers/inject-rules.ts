// SPDX-License-Identifier: Apache-2.0
// Rules of the inject driver: which request is to fail, wait or be torn. Pure counting: the same requests in the same
// order always meet the same fate. Two spellings, x-inject's own and blkdebug's `inject-error`.

import { EIO } from '../../../common/errno.js'
import { CommandError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'

export type InjectOp = 'read' | 'write' | 'zero' | 'discard' | 'status' | 'flush' | 'open' | 'close'

/** What happens to one request, in this order. */
export interface Fate {
  readonly delayMs: number
  /** Waits until the node is reopened or closed. */
  readonly stall: boolean
  /** Of a write only so many bytes reach the child. */
  readonly tear: number | undefined
  /** Positive errno to fail with; undefined: the request goes on, or for a torn one lies that all was written. */
  readonly errno: number | undefined
}

interface Rule {
  readonly ops: readonly InjectOp[]
  /** Only requests that hold this byte; undefined: all. */
  readonly byte: number | undefined
  /** First matching request that is hit, from 1. */
  readonly first: number
  /** Matching requests that are hit; Infinity: for ever. */
  readonly count: number
  readonly fate: Fate
  /** Matching requests so far. */
  seen: number
}

export class InjectRules {
  readonly #rules: readonly Rule[]

  constructor(rules: readonly Rule[]) {
    this.#rules = rules
  }

  /** Counts the request in every rule; the first rule that hits decides. */
  next(op: InjectOp, offset = 0, length = 0): Fate | undefined {
    let fate: Fate | undefined
    for (const rule of this.#rules) {
      if (!rule.ops.includes(op)) continue
      if (rule.byte !== undefined && (rule.byte < offset || rule.byte >= offset + length)) continue
      rule.seen += 1
      if (fate === undefined && rule.seen >= rule.first && rule.seen < rule.first + rule.count)
        fate = rule.fate
    }
    return fate
  }
}

interface OwnRule {
  readonly op: InjectOp
  readonly nth?: number
  readonly count?: number
  /** 0 as absent. */
  readonly errno?: number
  readonly 'delay-ms'?: number
  readonly stall?: boolean
  readonly tear?: number
}

/**
 * Rules as x-inject spells them: `{op, nth = 1, count = 1 (0: for ever), errno, delay-ms, stall, tear}`.
 * @throws CommandError for numbers that make no sense
 */
export function ownRules(spec: NodeSpec): InjectRules {
  const rules = (spec.rules as readonly OwnRule[] | undefined) ?? []
  return new InjectRules(
    rules.map((rule, index) => {
      const at = `rules[${index}]`
      const count = atLeast(`${at}.count`, 0, rule.count ?? 1)
      return {
        ops: [rule.op],
        byte: undefined,
        first: atLeast(`${at}.nth`, 1, rule.nth ?? 1),
        count: count === 0 ? Number.POSITIVE_INFINITY : count,
        fate: {
          delayMs: atLeast(`${at}.delay-ms`, 0, rule['delay-ms'] ?? 0),
          stall: rule.stall ?? false,
          tear: rule.tear,
          errno: atLeast(`${at}.errno`, 0, rule.errno ?? 0) || undefined,
        },
        seen: 0,
      }
    }),
  )
}

function atLeast(name: string, least: number, value: number): number {
  if (value < least) throw new CommandError(`Parameter '${name}' expects a number not below ${least}`)
  return value
}

interface BlkdebugRule {
  readonly iotype?: string
  readonly errno?: number
  readonly sector?: number
  readonly once?: boolean
}

const blkdebugOps: Readonly<Record<string, InjectOp>> = {
  read: 'read',
  write: 'write',
  'write-zeroes': 'zero',
  discard: 'discard',
  flush: 'flush',
  'block-status': 'status',
}
/** Without iotype block status goes through, as in the peer. */
const usual: readonly InjectOp[] = ['read', 'write', 'zero', 'discard', 'flush']

/** `inject-error` as blkdebug spells it: every matching request fails, with `once` only the first. */
export function blkdebugRules(spec: NodeSpec): InjectRules {
  const rules = (spec['inject-error'] as readonly BlkdebugRule[] | undefined) ?? []
  return new InjectRules(
    rules.map((rule) => {
      const op = rule.iotype === undefined ? undefined : blkdebugOps[rule.iotype]
      return {
        ops: op === undefined ? usual : [op],
        byte: rule.sector === undefined || rule.sector < 0 ? undefined : rule.sector * 512,
        first: 1,
        count: rule.once === true ? 1 : Number.POSITIVE_INFINITY,
        fate: { delayMs: 0, stall: false, tear: undefined, errno: rule.errno ?? EIO },
        seen: 0,
      }
    }),
  )
}
