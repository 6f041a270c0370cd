// SPDX-License-Identifier: Apache-2.0
// Names of images that are options: `json:{…}`, as QEMU's programs print and take them. Used by the daemon for what images name
// below them, and by the command line for what users name. What such a name may say is theirs to decide.

import { JsonStream } from './json-stream.js'
import { isJsonObject, type JsonObject, type JsonValue, jsonObject } from './json-value.js'
import { listify } from './keyval.js'
import { ArgumentError } from './schema/validate.js'

const prefix = 'json:'

export function isJsonName(name: string): boolean {
  return name.startsWith(prefix)
}

/**
 * The options, with dotted keys made nested: `file.filename` is `filename` inside `file`.
 * @param name  of which isJsonName() is true
 * @throws ArgumentError
 */
export function parseJsonName(name: string): JsonObject {
  const stream = new JsonStream()
  const items = [...stream.push(new TextEncoder().encode(name.slice(prefix.length))), ...stream.end()]
  const problem = (text: string) => new ArgumentError(`Could not parse the JSON options: ${text}`)
  for (const item of items) if (item.kind === 'error') throw problem(item.desc)
  const [first, second] = items
  if (first === undefined) throw problem('Expecting a JSON value')
  if (second !== undefined) throw problem('Expecting at most one JSON value')
  if (first.kind !== 'value' || !isJsonObject(first.value))
    throw new ArgumentError('Invalid JSON object given')
  const options = listify(nested(first.value), '')
  if (!isJsonObject(options)) throw new ArgumentError('Invalid JSON object given')
  return options
}

function nested(flat: JsonObject): JsonObject {
  const result = jsonObject()
  for (const [key, value] of Object.entries(flat)) {
    const names = key.split('.')
    const last = names.pop() ?? key
    let into = result
    for (const name of names) {
      const below: JsonValue = into[name] ?? jsonObject()
      if (!isJsonObject(below)) throw new ArgumentError(`Invalid parameter '${key}'`)
      into[name] = below
      into = below
    }
    if (!isJsonObject(value) && into[last] !== undefined)
      throw new ArgumentError(`Invalid parameter '${key}'`)
    into[last] = isJsonObject(value) ? merged(into[last], nested(value)) : value
  }
  return result
}

/** Members that dotted keys put there before, too. */
function merged(before: JsonValue | undefined, object: JsonObject): JsonObject {
  return isJsonObject(before) ? Object.assign(jsonObject(), before, object) : object
}
