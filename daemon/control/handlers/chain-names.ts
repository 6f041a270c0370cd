// SPDX-License-Identifier: Apache-2.0
// Backing chains as the main thread knows them: which nodes they have, and what images are called in them.

import path from 'node:path'
import { isFilter } from '../../common/filter-drivers.js'
import { protocolOf } from '../../common/image-name.js'
import { CommandError } from '../../errors.js'
import type { BackingSpec } from '../../iothread/messages-chain.js'
import type { Directory, Node } from '../directory.js'

/** Longest name an image holds, bytes. */
const MOST_NAME = 1023

/** A node and those below it on the way down its backing chain, filters included. */
export function chainOf(directory: Directory, node: Node): Node[] {
  const way: Node[] = []
  for (let at: Node | undefined = node; at !== undefined; at = below(directory, at)) way.push(at)
  return way
}

/** The same without filters. */
export function imagesOf(directory: Directory, node: Node): Node[] {
  return chainOf(directory, node).filter((each) => !isFilter(each.spec.driver))
}

function below(directory: Directory, node: Node): Node | undefined {
  if (isFilter(node.spec.driver)) return directory.child(node, 'file') ?? directory.child(node, 'image')
  return directory.child(node, 'backing')
}

/** The backing file of an image in a list that goes by a name: of its file, or the one that the image above has for it. */
export function imageNamed(
  directory: Directory,
  images: readonly Node[],
  name: string,
  from: number,
): Node | undefined {
  return images.find((image, index) => {
    if (index < from) return false
    const above = index === 0 ? undefined : images[index - 1]
    return namesOf(directory, image, above).some((each) => each === name || samePath(each, name))
  })
}

function namesOf(directory: Directory, image: Node, above: Node | undefined): string[] {
  const report = above && directory.report(above)
  const names = [directory.report(image)?.filename, leafOf(directory, image)?.spec.filename]
  const known = [report?.fullBacking, report?.format?.backingFile]
  return [...names, ...known].filter((each) => typeof each === 'string')
}

function samePath(one: string, other: string): boolean {
  const isPath = (name: string) => protocolOf(name) === undefined
  return isPath(one) && isPath(other) && path.resolve(one) === path.resolve(other)
}

/**
 * What an image is to write for its backing file.
 * @param name  as the user wants it; undefined: the file name
 * @throws CommandError when there is no such name, or it is too long
 */
export function backingSpec(directory: Directory, image: Node, name: string | undefined): BackingSpec {
  const chosen = name ?? ownName(directory, image)
  if (Buffer.byteLength(chosen) > MOST_NAME)
    throw new CommandError(`The name of a backing file has at most ${MOST_NAME} bytes: '${chosen}'`)
  const [first] = imagesOf(directory, image)
  return { name: chosen, format: first?.spec.driver === 'qcow2' ? 'qcow2' : 'raw' }
}

/** A plain path where that says all. */
function ownName(directory: Directory, image: Node): string {
  const plain = leafOf(directory, image)
  const filename = plain?.spec.filename
  if (typeof filename === 'string' && plain?.set === undefined) return path.resolve(filename)
  const shown = directory.report(image)?.filename ?? ''
  if (plain?.set === undefined && protocolOf(shown) !== undefined && isReadable(directory, image))
    return shown
  throw new CommandError(
    `Node '${image.name}' has no name by which an image could find it again: say one with 'backing-file'`,
  )
}

/** The file in which an image is, when nothing else needs to be known to open it. */
function leafOf(directory: Directory, image: Node): Node | undefined {
  const { driver, offset, size } = image.spec
  if (driver === 'file' || driver === 'host_device') return image
  const plainRaw = driver === 'raw' && (offset === undefined || offset === 0) && size === undefined
  if (!plainRaw && driver !== 'qcow2' && !isFilter(driver)) return undefined
  const storage = directory.child(image, 'file') ?? directory.child(image, 'image')
  if (storage === undefined || (storage.spec.driver === 'qcow2' && driver === 'qcow2')) return undefined
  return leafOf(directory, storage)
}

/** What an image may name: see block/backing-name.ts. */
function isReadable(directory: Directory, image: Node): boolean {
  const readable = new Set(['file', 'host_device', 'raw', 'qcow2', 'nbd'])
  return directory.layer(image).every(({ spec, set }) => set === undefined && readable.has(spec.driver))
}
