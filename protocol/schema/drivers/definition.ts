// SPDX-License-Identifier: Apache-2.0
// References to nodes inside node definitions: the name of an existing node, or a definition in its place.
// Drivers with children use blockdevRef; the cycle (definitions hold references) is closed here.

import { type AlternateType, alternate, nothing, type ObjectType, str } from '../types.js'

/** A node definition inside another one; validated like the outermost, typed loosely because it is recursive. */
export interface NodeDefinition {
  readonly driver: string
  readonly 'node-name'?: string
  readonly [option: string]: unknown
}

export type BlockdevRef = string | NodeDefinition

let definition: ObjectType | undefined

/** Called once, by the file that collects the drivers. */
export function setDefinition(type: ObjectType): void {
  definition = type
}

/** The same where null says that there is none. */
export const blockdevRefOrNull: AlternateType<BlockdevRef | null> = alternate('BlockdevRefOrNull', () =>
  definition === undefined ? [str, nothing] : [definition, str, nothing],
)

export const blockdevRef: AlternateType<BlockdevRef> = alternate('BlockdevRef', () =>
  definition === undefined ? [str] : [definition, str],
)
