// SPDX-License-Identifier: Apache-2.0
// JSON values over several lines: for a person at a terminal, and as QEMU's tools print them. Numbers keep all their
// digits.

import { toText } from '../../protocol/json-text.js'
import type { JsonValue } from '../../protocol/json-value.js'
import { asObject } from './values.js'

/** Short values stay on one line. */
const shortLine = 72

export function indented(value: JsonValue, margin = ''): string {
  const line = toText(value)
  if (line.length + margin.length <= shortLine) return line
  const inner = `${margin}  `
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => inner + indented(item, inner)).join(',\n')}\n${margin}]`
  }
  const object = asObject(value)
  if (object === undefined) return line
  const members = Object.entries(object).map(
    ([name, item]) => `${inner}${toText(name)}: ${indented(item, inner)}`,
  )
  return `{\n${members.join(',\n')}\n${margin}}`
}

/** Every member and item on a line of its own, as `qemu-img --output=json` has it. */
export function spread(value: JsonValue, margin = ''): string {
  const object = asObject(value)
  const list = Array.isArray(value) ? value : undefined
  if (object === undefined && list === undefined) return toText(value)
  const inner = `${margin}    `
  const lines =
    list?.map((item) => inner + spread(item, inner)) ??
    Object.entries(object ?? {}).map(([name, item]) => `${inner}${toText(name)}: ${spread(item, inner)}`)
  const [open, close] = list === undefined ? '{}' : '[]'
  return `${open}\n${lines.join(',\n')}${lines.length > 0 ? '\n' : ''}${margin}${close}`
}
