// SPDX-License-Identifier: Apache-2.0
// Commands as people type them into `blockferry qmp`: NAME, NAME JSON-OBJECT, NAME key=value …, or a whole request.
// `a.b=1` means {"a": {"b": 1}}; a value that is JSON is taken as such, anything else is a string.

import { JsonStream } from '../../protocol/json-stream.js'
import type { JsonObject, JsonValue } from '../../protocol/json-value.js'
import { jsonObject } from '../../protocol/json-value.js'
import { usage } from './status.js'
import { asObject } from './values.js'

/** A request object ready to be sent, without id. @throws CliError (usage) */
export function requestOf(words: readonly string[]): JsonObject {
  const [first = '', ...rest] = words
  if (first.startsWith('{')) return objectFrom(words.join(' '))
  const request = jsonObject()
  request.execute = first
  const args = argumentsOf(rest)
  if (args !== undefined) request.arguments = args
  return request
}

function argumentsOf(words: readonly string[]): JsonObject | undefined {
  if (words.length === 0) return undefined
  if (words[0]?.startsWith('{')) return objectFrom(words.join(' '))
  const args = jsonObject()
  for (const word of words) {
    const equals = word.indexOf('=')
    if (equals <= 0) throw usage(`expected a JSON object or key=value, found '${word}'`)
    put(args, word.slice(0, equals).split('.'), valueFrom(word.slice(equals + 1)), word)
  }
  return args
}

function put(object: JsonObject, path: readonly string[], value: JsonValue, word: string): void {
  const [name = '', ...rest] = path
  if (rest.length === 0) {
    if (name in object) throw usage(`'${word}' was given before`)
    object[name] = value
    return
  }
  const inner = name in object ? asObject(object[name]) : jsonObject()
  if (inner === undefined) throw usage(`'${word}' names a member of something that is no object`)
  object[name] = inner
  put(inner, rest, value, word)
}

function valueFrom(text: string): JsonValue {
  // A blank ends a bare number or word, which else could go on.
  const [item, ...more] = new JsonStream().push(new TextEncoder().encode(`${text} `))
  return item?.kind === 'value' && more.length === 0 ? item.value : text
}

function objectFrom(text: string): JsonObject {
  const [item, ...more] = new JsonStream().push(new TextEncoder().encode(`${text} `))
  const value = item?.kind === 'value' && more.length === 0 ? asObject(item.value) : undefined
  if (value !== undefined) return value
  const reason = item?.kind === 'error' ? item.desc : 'a JSON object is expected'
  throw usage(`${reason}: ${text}`)
}

/**
 * Cuts a line into words at blanks outside quotes and brackets, so that JSON stays whole. Quotes stay where they are
 * inside brackets; around a word they are taken off.
 */
export function wordsOf(line: string): string[] {
  const words: string[] = []
  let word: string | undefined
  let quote: string | undefined
  let depth = 0
  for (let at = 0; at < line.length; at++) {
    const character = line.charAt(at)
    if (quote === undefined && depth === 0 && /\s/.test(character)) {
      if (word !== undefined) words.push(word)
      word = undefined
      continue
    }
    word ??= ''
    if (quote !== undefined) {
      if (character === '\\' && depth > 0) word += character + line.charAt(++at)
      else if (character !== quote || depth > 0) word += character
      if (character === quote) quote = undefined
      continue
    }
    if (character === '"' || character === "'") {
      quote = character
      if (depth > 0) word += character
      continue
    }
    if ('{['.includes(character)) depth++
    if ('}]'.includes(character)) depth--
    word += character
  }
  if (word !== undefined) words.push(word)
  return words
}
