// SPDX-License-Identifier: Apache-2.0
// The NBD server and exports: checks in QEMU's order with its texts, then one call into Exports.

import { limits } from '../../../protocol/nbd/constants.js'
import type { Arguments } from '../../../protocol/schema/index.js'
import { isIdentifier } from '../../common/identifier.js'
import { CommandError } from '../../errors.js'
import type { ExportBitmap } from '../../iothread/messages-bitmaps.js'
import type { ListenAddress } from '../../nbd/messages.js'
import type { EventSink, Handlers } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { Export, Exports } from '../exports/exports.js'
import type { ImagesService } from '../exports/images-service.js'
import type { Tickets } from '../exports/tickets.js'
import type { Objects } from '../objects.js'
import { bitmapNode } from './bitmaps.js'
import { imageExports } from './image-exports.js'

const HANDSHAKE_SECONDS = 10
const MOST_CONNECTIONS = 100
/** Node's timers end at once beyond it, milliseconds: 24 days. */
const LONGEST_TIMER = 2 ** 31 - 1

type ExportOptions = Arguments<'block-export-add'>
type NbdOptions = Extract<ExportOptions, { type: 'nbd' }>

/** What serves nodes, by protocol. */
export interface ExportKinds {
  readonly exports: Exports
  readonly images: ImagesService
  readonly tickets: Tickets
}

export function exportHandlers(
  { exports, images, tickets }: ExportKinds,
  directory: Directory,
  objects: Objects,
  events: EventSink,
) {
  const check = (options: ExportOptions) => {
    if (exports.find(options.id) !== undefined || tickets.find(options.id) !== undefined)
      throw new CommandError(`Block export id '${options.id}' is already in use`)
    return checkExport(options, directory, objects)
  }
  const checkImage = (options: ExportOptions & { bitmap?: ExportBitmap }) => {
    const node = check(options)
    if (options.bitmap !== undefined) checkBitmaps(directory, node, [options.bitmap])
    return node
  }
  const image = imageExports(images, tickets, events)
  const add = async (options: NbdOptions) => {
    if (!isIdentifier(options.id)) throw new CommandError('Invalid block export id')
    const node = check(options)
    await exports.add({
      id: options.id,
      name: checkText(options.name ?? node.name, 'export name'),
      description: checkText(options.description ?? '', 'description'),
      node,
      writable: options.writable ?? false,
      writethrough: options.writethrough ?? false,
      allocationDepth: options['allocation-depth'] ?? false,
      bitmaps: checkBitmaps(directory, node, options.bitmaps ?? []),
    })
  }
  const remove = async (id: string, mode: 'safe' | 'hard' = 'safe') => {
    const ticket = tickets.exports().find((each) => each.id === id)
    if (ticket !== undefined) return image.remove(ticket, mode)
    const found = find(exports, id)
    if (found.state === 'closing') throw new CommandError(`Export '${id}' is already shutting down`)
    if (found.clients.size === 0) await exports.remove(found)
    else if (mode === 'safe') throw new CommandError(`export '${id}' still in use`)
    // What clients have under way may take as long as the disk does; the event tells when it is over.
    else void exports.remove(found)
  }
  return {
    'nbd-server-start': async (options) => {
      const { 'tls-creds': id, 'tls-authz': authz } = options
      const tls = id === undefined ? undefined : objects.credentials(id, 'server')
      if (authz !== undefined && !(tls?.kind === 'x509' && tls.verifyPeer))
        throw new CommandError(
          "Parameter 'tls-authz' needs 'tls-creds' that ask clients for a certificate: tls-creds-x509 with verify-peer",
        )
      const server = {
        address: addressOf(options.addr),
        handshakeMs: Math.min((options['handshake-max-seconds'] ?? HANDSHAKE_SECONDS) * 1000, LONGEST_TIMER),
        maxConnections: options['max-connections'] ?? MOST_CONNECTIONS,
        tls,
      }
      await exports.startServer(server, authz === undefined ? undefined : () => objects.authorization(authz))
    },

    'nbd-server-stop': () => exports.stopServer(),

    'block-export-add': async (options) => {
      if (options.type === 'x-images') return image.add(options, checkImage)
      if (options.type !== 'nbd')
        throw new CommandError(`Parameter 'type' does not accept value '${options.type}'`)
      await add(options)
    },

    'nbd-server-add': async ({ device, name = device, bitmap, ...more }) => {
      const bitmaps = bitmap === undefined ? [] : [bitmap]
      await add({ type: 'nbd', id: name, 'node-name': device, name, bitmaps, ...more })
    },

    'block-export-del': ({ id, mode }) => remove(id, mode),
    'nbd-server-remove': ({ name, mode }) => remove(name, mode),

    'query-block-exports': () => {
      const shown = (node: Node) => filterAbove(directory, node)?.name ?? node.name
      const nbd = exports
        .all()
        .filter(({ state }) => state !== 'opening')
        .reverse()
        .map(({ id, node, state, clients }) => ({
          id,
          type: 'nbd' as const,
          'node-name': shown(node),
          'shutting-down': state === 'closing',
          'x-clients': clients.size,
        }))
      return [...image.infos(shown), ...nbd]
    },
  } satisfies Handlers
}

function find(exports: Exports, id: string): Export {
  const found = exports.find(id)
  if (found === undefined || found.state === 'opening') throw new CommandError(`Export '${id}' is not found`)
  return found
}

/** The filter of the mirror that copies a node: users of the node are above it. */
function filterAbove(directory: Directory, node: Node): Node | undefined {
  if (node.use?.role !== 'source') return undefined
  const parents = [...node.parents].flatMap((name) => directory.find(name) ?? [])
  return parents.find(({ use }) => use?.role === 'filter')
}

function checkExport(options: ExportOptions, directory: Directory, objects: Objects): Node {
  const { iothread } = options
  const name = options['node-name']
  const node = directory.find(name)
  if (node === undefined) throw new CommandError(`Cannot find device='' nor node-name='${name}'`)
  if (options.writable === true && directory.report(node)?.readOnly === true)
    throw new CommandError('Cannot export read-only node as writable')
  if (iothread !== undefined && objects.get(iothread)?.['qom-type'] !== 'iothread')
    throw new CommandError(`iothread "${iothread}" not found`)
  if (node.state !== 'open') throw new CommandError(`Node '${name}' is busy: another command is changing it`)
  if (node.owner.kind === 'job')
    throw new CommandError(`Node '${name}' is busy: it belongs to job '${node.owner.name}'`)
  return node
}

/** @throws CommandError for bitmaps of nodes that are not connected with the one that is served */
function checkBitmaps(
  directory: Directory,
  node: Node,
  bitmaps: readonly ExportBitmap[],
): readonly ExportBitmap[] {
  for (const bitmap of bitmaps) {
    if (typeof bitmap === 'string') continue
    const of = bitmapNode(directory, bitmap.node)
    if (of.worker !== node.worker)
      throw new CommandError(
        `Bitmap '${bitmap.name}' of node '${of.name}' cannot be shown by an export of '${node.name}': they are in different iothreads`,
      )
  }
  return bitmaps
}

function checkText(text: string, what: string): string {
  if (Buffer.byteLength(text) > limits.string) throw new CommandError(`${what} '${text}' too long`)
  return text
}

function addressOf(address: Arguments<'nbd-server-start'>['addr']): ListenAddress {
  switch (address.type) {
    case 'unix':
      return { kind: 'unix', path: address.data.path }
    case 'inet':
      return { kind: 'tcp', host: address.data.host, port: portOf(address.data.port) }
    default:
      throw new CommandError(`Parameter 'addr.type' does not accept value '${address.type}'`)
  }
}

function portOf(text: string): number {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port > 65535)
    throw new CommandError(`Parameter 'addr.data.port' expects a port number, 0 to 65535, not '${text}'`)
  return port
}
