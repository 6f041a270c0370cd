// SPDX-License-Identifier: Apache-2.0
// Whether a request is one that client and server agreed on: flags, range, alignment, payload. A server answers what is
// not with the error given here and does nothing else; a client can assert its own requests with it.
// Source: doc/proto.md, "Size constraints", "Command flags", "Request types", "Error values".

import { hex } from '../error-text.js'
import { type Agreed, hasFlag, type TransmissionFlag } from './agreed.js'
import { getUint64, viewOf } from './bytes.js'
import { type CommandName, commandFlags, commands, nameOf } from './constants.js'
import type { NbdErrorName } from './error-number.js'
import { payloadLength, type Request } from './request.js'

export interface RequestRefusal {
  readonly error: NbdErrorName
  /** For people. */
  readonly text: string
  /** The payload is too long to be skipped: the connection is to be closed. */
  readonly close: boolean
}

interface Rule {
  /** Flags beside FUA, each with what the server must have said it can do. */
  readonly flags: Partial<Record<keyof typeof commandFlags, TransmissionFlag | 'always'>>
  /** The command itself needs it. */
  readonly needs?: TransmissionFlag
  readonly writes?: true
  /** Beyond the end is ENOSPC for what would need space there. */
  readonly beyond: 'EINVAL' | 'ENOSPC'
}

const rules: Readonly<Record<Exclude<CommandName, 'DISC' | 'FLUSH'>, Rule>> = {
  READ: { flags: { DF: 'SEND_DF' }, beyond: 'EINVAL' },
  WRITE: { flags: {}, writes: true, beyond: 'ENOSPC' },
  TRIM: { flags: {}, needs: 'SEND_TRIM', writes: true, beyond: 'EINVAL' },
  CACHE: { flags: {}, needs: 'SEND_CACHE', beyond: 'EINVAL' },
  WRITE_ZEROES: {
    flags: { NO_HOLE: 'always', FAST_ZERO: 'SEND_FAST_ZERO' },
    needs: 'SEND_WRITE_ZEROES',
    writes: true,
    beyond: 'ENOSPC',
  },
  BLOCK_STATUS: {
    flags: { REQ_ONE: 'always', PAYLOAD_LEN: 'BLOCK_STATUS_PAYLOAD' },
    beyond: 'EINVAL',
  },
}

type CheckedRequest = Pick<Request, 'command' | 'flags' | 'offset' | 'length'>

/**
 * @returns undefined: it may be done. For BLOCK_STATUS with a payload its range is yet to be checked, see
 *   checkStatusPayload()
 * DISC is always taken, there is no answer to it.
 */
export function checkRequest(request: CheckedRequest, agreed: Agreed): RequestRefusal | undefined {
  const command = nameOf(commands, request.command)
  if (command === 'DISC') return undefined
  const payload = payloadLength(request, agreed.replies)
  const { maximumPayload } = agreed.blockSizes
  if (payload > maximumPayload)
    return { ...refusal('EINVAL', `payload of ${payload} bytes, at most ${maximumPayload}`), close: true }
  if (command === undefined) return refusal('EINVAL', `command ${request.command} is not known`)
  if (command === 'FLUSH') return checkFlush(request, agreed)
  const rule = rules[command]
  if (rule.writes && hasFlag(agreed.flags, 'READ_ONLY'))
    return refusal('EPERM', `${command} to a read-only export`)
  return (
    checkFlags(command, request, rule, agreed) ??
    (command === 'BLOCK_STATUS' && agreed.contexts.length === 0
      ? refusal('EINVAL', 'BLOCK_STATUS without a context that was chosen')
      : undefined) ??
    (command !== 'WRITE' && payload > 0
      ? checkPayloadSize(payload, agreed)
      : checkRange(request, rule.beyond, agreed)) ??
    (command === 'READ' ? checkReadLength(request, agreed) : undefined)
  )
}

function checkFlush({ flags, offset, length }: CheckedRequest, agreed: Agreed): RequestRefusal | undefined {
  if (!hasFlag(agreed.flags, 'SEND_FLUSH')) return refusal('EINVAL', 'FLUSH without SEND_FLUSH')
  const wrong = checkFlags('FLUSH', { flags }, { flags: {}, beyond: 'EINVAL' }, agreed)
  if (wrong !== undefined) return wrong
  return offset === 0 && length === 0 ? undefined : refusal('EINVAL', 'FLUSH of a range')
}

function checkFlags(
  command: CommandName,
  { flags }: Pick<Request, 'flags'>,
  rule: Rule,
  agreed: Agreed,
): RequestRefusal | undefined {
  if (rule.needs !== undefined && !hasFlag(agreed.flags, rule.needs))
    return refusal('EINVAL', `${command} without ${rule.needs}`)
  const allowed = allowedFlags(command, rule, agreed)
  if ((flags & ~allowed) !== 0)
    return refusal('EINVAL', `${command} with flags ${hex(flags)}, allowed are ${hex(allowed)}`)
  return undefined
}

function allowedFlags(command: CommandName, rule: Rule, agreed: Agreed): number {
  // FUA may be on any command: clients are known to set it on others than those that write.
  let allowed: number = hasFlag(agreed.flags, 'SEND_FUA') ? commandFlags.FUA : 0
  if (command === 'WRITE' && agreed.replies === 'extended') allowed |= commandFlags.PAYLOAD_LEN
  for (const [name, needs] of Object.entries(rule.flags))
    if (needs === 'always' || hasFlag(agreed.flags, needs))
      allowed |= commandFlags[name as keyof typeof commandFlags]
  return allowed
}

/**
 * Length zero is refused: the protocol leaves open what it means.
 * What ends with the export may be unaligned there: nobody could reach its last bytes otherwise.
 */
function checkRange(
  { offset, length }: Pick<Request, 'offset' | 'length'>,
  beyond: 'EINVAL' | 'ENOSPC',
  { size, blockSizes: { minimum } }: Agreed,
): RequestRefusal | undefined {
  if (length === 0) return refusal('EINVAL', 'length 0')
  if (offset > size || length > size - offset)
    return refusal(beyond, `${length} bytes at ${offset}, the export has ${size}`)
  if (offset % minimum !== 0 || (length % minimum !== 0 && offset + length !== size))
    return refusal('EINVAL', `${length} bytes at ${offset}, not aligned to ${minimum}`)
  return undefined
}

/** EOVERFLOW tells clients that know chunks to come back with less; others know EINVAL. */
function checkReadLength({ length }: CheckedRequest, agreed: Agreed): RequestRefusal | undefined {
  const { maximumPayload } = agreed.blockSizes
  if (length <= maximumPayload) return undefined
  const error = hasFlag(agreed.flags, 'SEND_DF') ? 'EOVERFLOW' : 'EINVAL'
  return refusal(error, `read of ${length} bytes, at most ${maximumPayload}`)
}

/** The payload of BLOCK_STATUS has an effect length and ids. */
function checkPayloadSize(payload: number, { contexts }: Agreed): RequestRefusal | undefined {
  const ids = (payload - 8) / 4
  if (Number.isInteger(ids) && ids > 0 && ids <= contexts.length) return undefined
  return refusal(
    'EINVAL',
    `payload of ${payload} bytes, not 8 and 4 for each of up to ${contexts.length} contexts`,
  )
}

export interface StatusPayload {
  /** Bytes of the export that are asked for. */
  readonly length: number
  /** Of the contexts that are asked for. */
  readonly ids: readonly number[]
}

/** @param payload  of a BLOCK_STATUS that checkRequest() let pass, all of it */
export function checkStatusPayload(
  payload: Uint8Array,
  { offset }: Pick<Request, 'offset'>,
  agreed: Agreed,
): StatusPayload | RequestRefusal {
  const view = viewOf(payload)
  const length = getUint64(view, 0)
  const ids = Array.from({ length: (payload.length - 8) / 4 }, (_, index) => view.getUint32(8 + 4 * index))
  const known = new Set(agreed.contexts.map(({ id }) => id))
  for (const id of ids)
    if (!known.delete(id)) return refusal('EINVAL', `context ${id} twice, or not one that was chosen`)
  return checkRange({ offset, length }, 'EINVAL', agreed) ?? { length, ids }
}

function refusal(error: NbdErrorName, text: string): RequestRefusal {
  return { error, text, close: false }
}
