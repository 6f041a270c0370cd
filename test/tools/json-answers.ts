// SPDX-License-Identifier: Apache-2.0
// The form in which answers to byte inputs are recorded and compared. Shared by the recorder and the test.

import { toText } from '../../protocol/json-text.js'
import { isJsonObject, type JsonObject, type JsonValue } from '../../protocol/json-value.js'

export interface RecordedCase {
  /** Bytes as latin1 characters. */
  readonly input: string
  readonly answers: readonly string[]
}

export const endId = 'end of the case'

/** Sent after every input: completes bare scalars, resets the parser, and asks for a last answer. */
export const caseEnd = `\n\xff{"execute":"x","id":"${endId}"}`

/** An error reply as text: its `desc`, and its `id` where it has one. */
export function answerOf(reply: JsonObject): string {
  const { error, id } = reply
  const desc = isJsonObject(error) ? error.desc : toText(reply)
  return id === undefined ? `${desc}` : `${desc}, id ${toText(sorted(id))}`
}

/** Members in one order, because servers may give any. */
function sorted(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sorted)
  if (!isJsonObject(value)) return value
  const out: JsonObject = Object.create(null)
  for (const name of Object.keys(value).sort()) out[name] = sorted(value[name]!)
  return out
}
