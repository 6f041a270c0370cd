// SPDX-License-Identifier: Apache-2.0
// The name of a backing file as an image holds it, made into a node definition. An image comes from anybody: it may
// name files, and formats over them; it may not name nodes, nor drivers that disturb or count. Used by implied.ts.

import { parseJsonName } from '../../../protocol/json-name.js'
import { isJsonObject, type JsonObject, jsonObject } from '../../../protocol/json-value.js'
import { blockdevOptions } from '../../../protocol/schema/nodes.js'
import { ArgumentError, validate } from '../../../protocol/schema/validate.js'
import { fullName, protocolOf } from '../../common/image-name.js'
import { CommandError } from '../../errors.js'
import type { NodeDefinition } from '../messages.js'
import { ROLES } from './records.js'

/** A backing file: a path, or options that may lack the driver. */
export type BackingName =
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'options'; readonly options: JsonObject }

/** Members of a definition that concern who opens it, not what is opened. */
const notTheImages = new Set(['node-name', 'read-only', 'auto-read-only'])

const allowed = new Set(['file', 'host_device', 'raw', 'qcow2', 'null-co', 'null-aio'])

/**
 * @param image  path of the image; undefined when no file is behind it
 * @param name   not empty
 * @throws CommandError for a protocol that is not known, or a relative name in an image without a folder
 */
export function parseBackingName(image: string | undefined, name: string): BackingName {
  const protocol = protocolOf(name)
  if (protocol === 'json') return { kind: 'options', options: parseJson(name) }
  if (protocol !== undefined && protocol !== 'file') throw new CommandError(`Unknown protocol '${protocol}'`)
  const path = protocol === undefined ? name : name.slice('file:'.length)
  if (path.startsWith('/') || protocol !== undefined) return { kind: 'path', path }
  if (image === undefined)
    throw new CommandError(`Cannot find the folder of '${name}': the image naming it is in no file`)
  return { kind: 'path', path: fullName(image, path) }
}

/**
 * The options of an image's json: name, with the driver filled in.
 * @throws CommandError for what is no definition, or one that an image may not make
 */
export function definitionOf(options: JsonObject, driver: string): NodeDefinition {
  checkAllowed({ ...options, driver })
  try {
    return validate(blockdevOptions, { ...options, driver })
  } catch (error) {
    if (error instanceof ArgumentError) throw new CommandError(error.message)
    throw error
  }
}

function checkAllowed(options: JsonObject): void {
  const { driver } = options
  if (typeof driver === 'string' && !allowed.has(driver)) throw new CommandError(`Unknown driver '${driver}'`)
  for (const role of ROLES) {
    const child = options[role]
    if (typeof child === 'string') throw new CommandError(`An image may not name node '${child}'`)
    if (isJsonObject(child)) checkAllowed(child)
  }
}

function parseJson(name: string): JsonObject {
  try {
    return withoutOpeners(parseJsonName(name))
  } catch (error) {
    if (error instanceof ArgumentError) throw new CommandError(error.message)
    throw error
  }
}

function withoutOpeners(options: JsonObject): JsonObject {
  const result = jsonObject()
  for (const [name, value] of Object.entries(options))
    if (!notTheImages.has(name)) result[name] = isJsonObject(value) ? withoutOpeners(value) : value
  return result
}
