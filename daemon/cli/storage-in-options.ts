// SPDX-License-Identifier: Apache-2.0
// What an image lies on that is given as options: everything that its nodes read or write, so that nothing is copied onto itself.
// Used by image.ts.

import { resolve } from 'node:path'
import { isJsonObject, type JsonObject } from '../../protocol/json-value.js'
import { DEFAULT_PORT } from '../../protocol/nbd/constants.js'
import { formatNbdUri, type NbdServer } from '../../protocol/nbd/uri.js'
import type { End } from './storage.js'
import { textOf } from './values.js'

/**
 * @param text  as the user wrote it
 * @returns what the image itself lies on, and beside it everything below
 */
export function storageIn(text: string, options: JsonObject): End {
  const own = ownStorage(text, options) ?? { name: text, path: text, kind: 'missing' }
  return { ...own, others: allStorage(text, options) }
}

function ownStorage(text: string, options: JsonObject): End | undefined {
  return leaf(text, options) ?? (isJsonObject(options.file) ? ownStorage(text, options.file) : undefined)
}

function allStorage(text: string, options: JsonObject): End[] {
  const { server: _, ...nodes } = options
  const below = Object.values(nodes).filter(isJsonObject)
  return [leaf(text, options) ?? [], below.flatMap((each) => allStorage(text, each))].flat()
}

function leaf(name: string, options: JsonObject): End | undefined {
  const { driver, filename, server } = options
  if (driver === 'nbd') {
    const address = { exportName: textOf(options, 'export') ?? '', tls: false, tlsQueries: {} }
    const at = serverOf(isJsonObject(server) ? server : options)
    return { name, path: formatNbdUri({ server: at, ...address }), kind: 'nbd' }
  }
  return typeof filename === 'string' ? { name, path: resolve(filename), kind: 'file' } : undefined
}

function serverOf(at: JsonObject): NbdServer {
  const path = textOf(at, 'path')
  if (path !== undefined) return { kind: 'unix', path }
  const port = Number(at.port ?? DEFAULT_PORT)
  return { kind: 'inet', host: textOf(at, 'host') ?? '', port }
}
