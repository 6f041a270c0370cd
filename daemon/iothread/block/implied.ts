// SPDX-License-Identifier: Apache-2.0
// Implied children: an image names its backing file and its data file itself. Fills them into a definition before it is
// opened, so that the main thread knows every node there will be. Used by the graph.
// What an image says is distrusted: chains end, no file comes twice, only regular files and block devices are read.
// Where a file that the user defined cannot be read, nothing is filled in: opening it says why, in the driver's words.

import { ExtensionType, extensionText, type Header, Incompatible } from '../../../protocol/qcow2/header.js'
import { CommandError } from '../../errors.js'
import type { NodeDefinition } from '../messages.js'
import { definitionOf, parseBackingName } from './backing-name.js'
import { type ImageHead, type ImageSource, type Place, placeOf } from './image-source.js'
import { ROLES } from './records.js'

/** Images above each other at most. */
const LONGEST = 200

/** Of the whole chain: no layer says it again. */
class ChainTooLong extends CommandError {}

/** Identities of the images above, the top one first. */
type Above = readonly string[]

/**
 * @returns the definition with `backing` and `data-file` filled in wherever an image names them and the user does not; `named`
 *   is how the image calls its backing file
 * @throws CommandError when an implied file cannot be opened, read or is not to be trusted
 */
export function resolveImplied(spec: NodeDefinition, source: ImageSource): Promise<NodeDefinition> {
  return fill(spec, [], source)
}

async function fill(spec: NodeDefinition, above: Above, source: ImageSource): Promise<NodeDefinition> {
  const head = spec.driver === 'qcow2' ? await headOf(spec, source) : undefined
  const chain = joined(above, head)
  const filled: Record<string, unknown> = {}
  for (const role of ROLES) {
    const child = spec[role]
    if (typeof child !== 'object' || child === null) continue
    filled[role] = await fill(child as NodeDefinition, role === 'backing' ? chain : [], source)
  }
  if (head?.header === undefined) return { ...spec, ...filled }
  if (spec['data-file'] === undefined) {
    const data = await dataFile(head.header, source)
    if (data !== undefined) filled['data-file'] = data
  }
  if (spec.backing === undefined && head.header.backingFile !== undefined && head.header.backingFile !== '') {
    filled.backing = await backing(head, head.header, chain, source)
    filled.named = head.header.backingFile
  }
  return { ...spec, ...filled }
}

/** @throws CommandError when the image is one of those above it, or there are too many */
function joined(above: Above, head: ImageHead | undefined): Above {
  if (head?.identity === undefined) return above
  if (above.includes(head.identity))
    throw new CommandError(`Backing file '${head.path}' creates an infinite loop.`)
  if (above.length === LONGEST) throw new ChainTooLong(`Backing chain is longer than ${LONGEST} images`)
  return [...above, head.identity]
}

/** undefined when the user's file cannot be looked into. */
async function headOf(spec: NodeDefinition, source: ImageSource): Promise<ImageHead | undefined> {
  const place = placeOf(spec.file as string | NodeDefinition)
  if (place === undefined) return undefined
  try {
    return await source.look(place)
  } catch (error) {
    if (error instanceof CommandError) return undefined
    throw error
  }
}

/** The name is a path as it stands: it is no place for options, nor does the image's folder count, as with the peer. */
async function dataFile(header: Header, source: ImageSource): Promise<NodeDefinition | undefined> {
  const name = extensionText(header, ExtensionType.dataFile)
  if (name === undefined || !header.incompatible.has(Incompatible.dataFile)) return undefined
  const { kind } = await lookAt(name, source)
  return { driver: kind === 'block' ? 'host_device' : 'file', filename: name, implied: true }
}

async function backing(
  head: ImageHead,
  header: Header,
  above: Above,
  source: ImageSource,
): Promise<NodeDefinition> {
  try {
    const definition = await backingDefinition(head, header, source)
    return { ...(await fill(definition, above, source)), implied: true }
  } catch (error) {
    if (!(error instanceof CommandError) || error instanceof ChainTooLong) throw error
    throw new CommandError(`Could not open backing file: ${error.message}`)
  }
}

async function backingDefinition(
  head: ImageHead,
  header: Header,
  source: ImageSource,
): Promise<NodeDefinition> {
  const format = extensionText(header, ExtensionType.backingFormat)
  const name = parseBackingName(head.path, header.backingFile ?? '')
  if (name.kind === 'path') {
    const found = await lookAt(name.path, source)
    const driver = found.kind === 'block' ? 'host_device' : 'file'
    return over({ driver, filename: name.path }, format ?? probed(found))
  }
  const { driver, file } = name.options
  if (driver === 'file' || driver === 'host_device') {
    const storage = await checked(definitionOf(name.options, driver), source)
    return over(storage, format ?? driver)
  }
  const chosen = format ?? driver
  if (typeof chosen === 'string') return checked(definitionOf(name.options, chosen), source)
  if (file === undefined) throw new CommandError("Parameter 'driver' is missing")
  const place = placeOf(definitionOf(name.options, 'raw'))
  const found = place && (await source.look(place))
  return checked(definitionOf(name.options, found === undefined ? 'raw' : probed(found)), source)
}

/** An image without the format of its backing file: as with the peer, what it looks like; it is only read. */
function probed(found: ImageHead): string {
  return found.qcow2 ? 'qcow2' : 'raw'
}

function over(storage: NodeDefinition, format: string): NodeDefinition {
  if (format === storage.driver || format === 'file' || format === 'host_device') return storage
  if (format !== 'raw' && format !== 'qcow2')
    throw new CommandError(`Could not open '${storage.filename}': Unknown driver '${format}'`)
  return { driver: format, file: storage }
}

/** The definition, when what is at its bottom may be read. */
async function checked(definition: NodeDefinition, source: ImageSource): Promise<NodeDefinition> {
  const place = placeOf(definition.driver === 'qcow2' ? (definition.file as NodeDefinition) : definition)
  if (place !== undefined) await lookAtPlace(place, source)
  return definition
}

function lookAt(path: string, source: ImageSource): Promise<ImageHead> {
  return lookAtPlace({ at: { path }, offset: 0 }, source)
}

/** @throws CommandError unless it is a regular file or a block device: reading others may wait, or have effects */
async function lookAtPlace(place: Place, source: ImageSource): Promise<ImageHead> {
  const found = await source.look(place)
  if (found.kind === 'other')
    throw new CommandError(`'file' driver requires '${found.path}' to be a regular file`)
  return found
}
