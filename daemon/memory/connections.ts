// SPDX-License-Identifier: Apache-2.0
// Opens the connections of a transfer: one, or one and the channels of multifd. Used by the job; whoever opened closes.

import type { FileId } from '../../native/types.js'
import { EADDRINUSE } from '../common/errno.js'
import { CommandError, IoError } from '../errors.js'
import type { Tally } from './context.js'
import type { Endpoint, StreamAddress } from './messages.js'
import type { Slots } from './slots.js'
import { removeStaleSocket } from './stale-socket.js'

export interface ConnectionOptions {
  readonly slots: Slots
  readonly endpoint: Endpoint
  /** Connections wanted. */
  readonly count: number
  readonly direction: 'in' | 'out'
  readonly fdTaken: (fd: number) => void
  readonly tally: Pick<Tally, 'listening'>
  readonly signal: AbortSignal
}

/** For errors and users: 'unix:/run/vm.sock'. */
export function nameOf(endpoint: Endpoint): string {
  switch (endpoint.kind) {
    case 'listen':
    case 'connect': {
      const { address } = endpoint
      return address.kind === 'unix' ? address.path : `${address.host}:${address.port}`
    }
    case 'fd':
      return `fd ${endpoint.fd}`
    case 'path':
      return endpoint.path
    default:
      return endpoint satisfies never
  }
}

/** Gives the connections, in the order they came or were made. @throws CommandError, IoError; nothing stays open then */
export type OpenConnections = () => Promise<readonly FileId[]>

/**
 * What can be refused at once is: a listener listens when this answers.
 * @returns opens the connections; to be called once, or stop
 */
export async function prepareConnections(
  options: ConnectionOptions,
): Promise<{ open: OpenConnections; stop: () => Promise<void> }> {
  const { endpoint, count } = options
  const nothing = async (): Promise<void> => {}
  switch (endpoint.kind) {
    case 'listen':
      return await listen(options, endpoint.address)
    case 'connect':
      return { open: () => all(options, () => connected(options, endpoint.address)), stop: nothing }
    case 'fd': {
      if (count > 1) throw singleChannel()
      const stream = await adopted(options, endpoint)
      return { open: async () => [stream], stop: async () => void (await options.slots.engine.close(stream)) }
    }
    // A FIFO opens when the other side opens it.
    case 'path':
      if (count > 1) throw singleChannel()
      return { open: async () => [await opened(options, endpoint)], stop: nothing }
    default:
      return endpoint satisfies never
  }
}

async function listen(
  options: ConnectionOptions,
  address: StreamAddress,
): Promise<{ open: OpenConnections; stop: () => Promise<void> }> {
  const { slots, signal, tally } = options
  const { engine } = slots
  let listener = await engine.listen(address)
  if (listener === -EADDRINUSE && address.kind === 'unix' && (await removeStaleSocket(slots, address.path)))
    listener = await engine.listen(address)
  if (listener < 0) throw new CommandError(`Failed to listen on ${textOf(address)}: ${errorText(listener)}`)
  let open = true
  const stop = async () => {
    if (!open) return
    open = false
    engine.shutdownStream(listener, 'both')
    await engine.close(listener)
    if (address.kind === 'unix') await engine.unlink(address.path)
  }
  const wake = () => engine.shutdownStream(listener, 'both')
  tally.listening(address.kind === 'unix' ? address : { ...address, port: await engine.portOf(listener) })
  const accept = async () => {
    signal.addEventListener('abort', wake)
    try {
      return await all(options, async () => {
        const stream = await engine.accept(listener)
        if (stream < 0) throw new IoError(-stream, 'open', textOf(address))
        return stream
      })
    } finally {
      signal.removeEventListener('abort', wake)
      await stop()
    }
  }
  return { open: accept, stop }
}

async function connected({ slots }: ConnectionOptions, address: StreamAddress): Promise<FileId> {
  const stream = await slots.engine.connect(address)
  if (stream < 0) throw new CommandError(`Failed to connect to '${textOf(address)}': ${errorText(stream)}`)
  return stream
}

function singleChannel(): CommandError {
  return new CommandError('Migration requires multi-channel URIs (e.g. tcp)')
}

async function adopted(
  { slots, fdTaken }: ConnectionOptions,
  endpoint: Extract<Endpoint, { kind: 'fd' }>,
): Promise<FileId> {
  const stream = await slots.engine.adopt(endpoint.fd)
  fdTaken(endpoint.fd)
  if (stream < 0) throw new IoError(-stream, 'open', nameOf(endpoint))
  return stream
}

async function opened(
  { slots, direction }: ConnectionOptions,
  endpoint: Extract<Endpoint, { kind: 'path' }>,
): Promise<FileId> {
  const stream = await slots.engine.open(endpoint.path, { write: direction === 'out' })
  if (stream < 0) throw new CommandError(`Could not open '${endpoint.path}': ${errorText(stream)}`)
  return stream
}

/** All of them, or none. */
async function all(options: ConnectionOptions, open: () => Promise<FileId>): Promise<readonly FileId[]> {
  const streams: FileId[] = []
  try {
    while (streams.length < options.count) streams.push(await open())
    return streams
  } catch (error) {
    for (const stream of streams) await options.slots.engine.close(stream)
    throw error
  }
}

function textOf(address: StreamAddress): string {
  return address.kind === 'unix' ? address.path : `${address.host}:${address.port}`
}

function errorText(result: number): string {
  return new IoError(-result, 'open', '').message
}
