// SPDX-License-Identifier: Apache-2.0
// From the arguments of memory commands to what a worker is told: places become addresses and descriptors. Whoever builds a
// spec owns the descriptors in it until a worker has them.

import { closeDescriptor } from '../../../native/descriptors.js'
import { digestsNameOf } from '../../../protocol/migration/digests.js'
import { type MigrationAddress, parseMigrationUri } from '../../../protocol/migration/uri.js'
import type { Arguments } from '../../../protocol/schema/index.js'
import { ENOENT, errnoText } from '../../common/errno.js'
import { CommandError } from '../../errors.js'
import type {
  Endpoint,
  FilePlace,
  InspectSpec,
  Rename,
  SharedRam,
  SinkSpec,
  StreamAddress,
} from '../../memory/messages.js'
import type { CommandCall } from '../commands.js'
import { type Descriptors, setOf } from '../descriptors.js'

const MOST_CHANNELS = 32
const MOST_CELLS = 262144
const MOST_PORT = 65535
/** open(2)'s access modes. */
const O_RDONLY = 0
const O_WRONLY = 1

type Direction = 'in' | 'out'
type SaveArguments = Arguments<'x-memory-save'>
type ConvertArguments = Arguments<'x-memory-convert'>

/** Descriptors that specs name, together with what they came from. */
export class Places {
  readonly #descriptors: Descriptors
  readonly #call: CommandCall
  readonly #taken: number[] = []

  constructor(descriptors: Descriptors, call: CommandCall) {
    this.#descriptors = descriptors
    this.#call = call
  }

  /** Where a stream comes from or goes to. @param listens  who has no side of his own: a socket */
  endpoint(uri: string, listens: boolean): Endpoint {
    const address = parseMigrationUri(uri)
    if (typeof address === 'string') throw new CommandError(address)
    return this.endpointOf(address, listens)
  }

  endpointOf(address: MigrationAddress, listens: boolean): Endpoint {
    switch (address.transport) {
      case 'socket':
        if (address.type === 'fd') return { kind: 'fd', fd: this.#named(address.str) }
        return { kind: listens ? 'listen' : 'connect', address: socketAddress(address) }
      case 'file':
        return { kind: 'path', path: address.filename }
      case 'exec':
      case 'rdma':
        throw new CommandError(`migration transport '${address.transport}' is not supported`)
      default:
        return address satisfies never
    }
  }

  /** `fd:NAME`, `/dev/fdset/N`, or a path. */
  file(place: string, direction: Direction): FilePlace {
    if (place === '')
      throw new CommandError(`Could not ${direction === 'in' ? 'open' : 'create'} '': ${errnoText(ENOENT)}`)
    if (place.startsWith('fd:')) return { kind: 'fd', fd: this.#named(place.slice('fd:'.length)) }
    const set = setOf(place)
    if (set === undefined) return { kind: 'path', path: place }
    const use = this.#descriptors.use(set)
    try {
      const fd = use.duplicate(direction === 'in' ? O_RDONLY : O_WRONLY)
      this.#taken.push(fd)
      return { kind: 'fd', fd }
    } finally {
      use.release()
    }
  }

  /** From now on they are somebody else's. */
  handOver(): number[] {
    return this.#taken.splice(0)
  }

  /** Nobody got them. */
  drop(): void {
    for (const fd of this.#taken.splice(0)) closeDescriptor(fd)
  }

  #named(name: string): number {
    const fd = this.#descriptors.take(this.#call.session, name)
    this.#taken.push(fd)
    return fd
  }
}

/** The file to be written. @throws CommandError */
export function fileSink(args: SaveArguments | ConvertArguments, places: Places): SinkSpec {
  const { format, target, channels = 16, offset = 0, xml } = args
  if (format === 'null') return { kind: 'null' }
  if (target === undefined) throw new CommandError("Parameter 'target' is missing")
  if (channels < 1 || channels > MOST_CHANNELS)
    throw new CommandError(`Parameter 'channels' expects a value between 1 and ${MOST_CHANNELS}`)
  const libvirt = format === 'libvirt-raw' || format === 'libvirt-sparse'
  if (xml !== undefined && !libvirt)
    throw new CommandError(`Parameter 'xml' is for libvirt images, not for ${format}`)
  return {
    kind: 'file',
    ...{ format, offset, channels },
    file: places.file(target, 'out'),
    direct: args['direct-io'] ?? true,
    flush: args.flush ?? 'full',
    domain: xml === undefined ? undefined : { xml, running: args['was-running'] ?? true },
    digests: args.digests ?? false,
  }
}

/** What is to be looked at. @throws CommandError */
export function inspection(args: Arguments<'x-memory-inspect'>, places: Places): InspectSpec {
  const { what, cells = 65536, other } = args
  if (what === 'diff' && other === undefined) throw new CommandError("Parameter 'other' is missing")
  if (other !== undefined && what !== 'diff' && what !== 'map')
    throw new CommandError(`Parameter 'other' is for diff and map, not for ${what}`)
  if (args.digests !== undefined && what !== 'verify')
    throw new CommandError(`Parameter 'digests' is for verify, not for ${what}`)
  if (cells < 1 || cells > MOST_CELLS)
    throw new CommandError(`Parameter 'cells' expects a value between 1 and ${MOST_CELLS}`)
  const direct = args['direct-io'] ?? true
  const file = places.file(args.file, 'in')
  const beside = file.kind === 'path' ? digestsNameOf(file.path) : undefined
  const second = other === undefined ? undefined : places.file(other, 'in')
  return {
    ...{ kind: 'inspect', what, cells, digests: args.digests ?? beside },
    image: { file, offset: args.offset ?? 0, direct },
    other: second && { file: second, offset: args['other-offset'] ?? 0, direct },
  }
}

export function sharedRam(args: Pick<ConvertArguments, 'ram'>, places: Places): readonly SharedRam[] {
  return (args.ram ?? []).map(({ block, file }) => ({ block, file: places.file(file, 'in') }))
}

export function renames(args: Pick<ConvertArguments, 'rename'>): readonly Rename[] {
  return args.rename ?? []
}

function socketAddress(
  address: Exclude<Extract<MigrationAddress, { transport: 'socket' }>, { type: 'fd' }>,
): StreamAddress {
  switch (address.type) {
    case 'unix':
      return { kind: 'unix', path: address.path }
    case 'inet': {
      const port = /^\d+$/.test(address.port) ? Number(address.port) : MOST_PORT + 1
      if (port > MOST_PORT)
        throw new CommandError(`error parsing port in address '${address.host}:${address.port}'`)
      return { kind: 'tcp', host: address.host, port }
    }
    case 'vsock':
      throw new CommandError("migration transport 'vsock' is not supported")
    default:
      return address satisfies never
  }
}
