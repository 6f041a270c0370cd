// SPDX-License-Identifier: Apache-2.0
// The NBD server and exports: nodes that are served to others.

import { legacyAddress, socketAddress } from './addresses.js'
import { bitmapSource } from './bitmaps.js'
import {
  arrayOf,
  bool,
  command,
  enumOf,
  event,
  type Members,
  optional,
  required,
  str,
  struct,
  uint32,
  union,
} from './types.js'

const exportType = enumOf('BlockExportType', ['nbd', 'vhost-user-blk', 'fuse', 'vduse-blk', 'x-images'])
const removeMode = enumOf('BlockExportRemoveMode', ['safe', 'hard'])

const nbdMembers = {
  name: optional(str, 'As clients ask for it. Default: the name of the node.'),
  description: optional(str, 'For people, at most 4096 bytes.'),
  bitmaps: optional(
    arrayOf(bitmapSource),
    'Dirty bitmaps to offer as contexts `qemu:dirty-bitmap:NAME`; a name is looked for in the backing chain too.',
  ),
  'allocation-depth': optional(bool, 'Offers the context `qemu:allocation-depth`.', { default: false }),
} satisfies Members

const imagesMembers = {
  bitmap: optional(
    bitmapSource,
    'Dirty bitmap that extents are listed from with context=dirty; a name is looked for in the backing chain too.',
  ),
} satisfies Members

export const exportOptions = union(
  'BlockExportOptions',
  {
    type: required(
      exportType,
      'nbd, or x-images: over HTTP, where the id is the ticket: who knows it is served.',
    ),
    id: required(str, 'Name of the new export.'),
    'fixed-iothread': optional(bool, 'Taken and ignored: a served disk keeps its thread.', {
      default: false,
    }),
    iothread: optional(str, 'An iothread that exists. The disk keeps the thread it has.'),
    'node-name': required(str, 'The node to serve.'),
    writable: optional(bool, 'Clients may write.', { default: false }),
    writethrough: optional(bool, 'Every write is durable when it is answered.', { default: false }),
  },
  'type',
  { nbd: nbdMembers, 'x-images': imagesMembers },
)

const exportInfo = struct('BlockExportInfo', {
  id: required(str, 'Name of the export.'),
  type: required(exportType, 'How it is served.'),
  'node-name': required(str, 'The node that is served.'),
  'shutting-down': required(bool, 'It is being removed.'),
  'x-clients': optional(uint32, 'Clients that use it now.', { extension: true }),
})

const mode = optional(removeMode, 'safe: refused while a client uses it. hard: clients are cut off.', {
  default: 'safe',
})

const serverMembers = {
  'handshake-max-seconds': optional(
    uint32,
    'A client that has not chosen an export by then is cut off; 0: never.',
    { default: 10 },
  ),
  'tls-creds': optional(str, 'Id of TLS credentials for a server: nobody is served without TLS then.'),
  'tls-authz': optional(
    str,
    'Id of rules about the names in clients’ certificates (authz-…), looked up when a client comes. Without such an object nobody is let in.',
  ),
  'max-connections': optional(uint32, 'Clients at once, further ones wait; 0: any number.', {
    default: 100,
  }),
} satisfies Members

/** Of the option --nbd-server. */
export const nbdServerOptions = struct('NbdServerOptions', {
  ...serverMembers,
  addr: required(socketAddress, 'Where it listens.'),
})

export const exportCommands = {
  'nbd-server-start': command({
    doc: 'Starts the NBD server: it listens, and offers the exports that are added.',
    arguments: struct('nbd-server-start-arg', {
      ...serverMembers,
      addr: required(legacyAddress, 'Where it listens.'),
    }),
  }),
  'nbd-server-stop': command({
    doc: 'Removes all NBD exports, cuts their clients off, and stops listening.',
  }),
  'nbd-server-add': command({
    doc: 'Serves a node over NBD (older form of block-export-add): the export’s id is its name.',
    arguments: struct('nbd-server-add-arg', {
      name: optional(str, 'Name of the export. Default: that of the node.'),
      description: optional(str, 'For people, at most 4096 bytes.'),
      device: required(str, 'The node to serve.'),
      writable: optional(bool, 'Clients may write.', { default: false }),
      bitmap: optional(str, 'Dirty bitmap to offer as context `qemu:dirty-bitmap:NAME`.'),
    }),
  }),
  'nbd-server-remove': command({
    doc: 'Removes an export (older form of block-export-del).',
    arguments: struct('nbd-server-remove-arg', { name: required(str, 'Id of the export.'), mode }),
  }),
  'block-export-add': command({ doc: 'Serves a node to others.', arguments: exportOptions }),
  'block-export-del': command({
    doc: 'Stops serving a node. BLOCK_EXPORT_DELETED tells when nothing uses it any more.',
    arguments: struct('block-export-del-arg', { id: required(str, 'Name of the export.'), mode }),
  }),
  'query-block-exports': command({ doc: 'All exports, newest first.', returns: arrayOf(exportInfo) }),
}

export const exportEvents = {
  BLOCK_EXPORT_DELETED: event({
    doc: 'An export was removed, and nothing uses it any more.',
    data: struct('BLOCK_EXPORT_DELETED-arg', { id: required(str, 'Its name.') }),
  }),
}
