// SPDX-License-Identifier: Apache-2.0
// Which internal snapshot of an image is meant, as `-l` of qemu-img convert says it. Talks to no daemon.

import { parseKeyval } from '../../protocol/keyval.js'
import { ArgumentError } from '../../protocol/schema/validate.js'
import { usage } from './status.js'
import { asObject } from './values.js'

export interface SnapshotName {
  readonly name: string
  /** What `name` is; any: the id of one, else the name of one. */
  readonly by: 'any' | 'id' | 'name'
}

/** @param text  `snapshot.id=ID`, `snapshot.name=NAME`, or an id or name. @throws CliError (usage) */
export function snapshotName(text: string): SnapshotName {
  if (text === '') throw usage('-l needs the id or name of a snapshot, but it is empty')
  if (!text.startsWith('snapshot.')) return { name: text, by: 'any' }
  const given = Object.entries(asObject(parsed(text).snapshot) ?? {})
  const [first, ...more] = given
  if (first === undefined || more.length > 0) throw expected(text)
  const [by, name] = first
  if ((by !== 'id' && by !== 'name') || typeof name !== 'string') throw expected(text)
  return { name, by }
}

function parsed(text: string) {
  try {
    const { snapshot, ...others } = parseKeyval(text)
    if (Object.keys(others).length > 0) throw expected(text)
    return { snapshot }
  } catch (cause) {
    if (cause instanceof ArgumentError) throw expected(text)
    throw cause
  }
}

function expected(text: string) {
  return usage(`-l expects snapshot.id=ID, snapshot.name=NAME, or an id or name, found '${text}'`)
}
