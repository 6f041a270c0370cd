// SPDX-License-Identifier: Apache-2.0
// Opening of nbd nodes: what is refused and how it is said. Nothing stays open when it fails.

import type { IoEngine } from '../../../../../native/types.js'
import { hasFlag } from '../../../../../protocol/nbd/agreed.js'
import { ALLOCATION } from '../../../../../protocol/nbd/contexts.js'
import { CommandError } from '../../../../errors.js'
import type { CredentialsPlace } from '../../../../tls/messages.js'
import type { NodeSpec } from '../../../messages.js'
import type { BlockDriver } from '../../driver.js'
import type { HeldRequests } from '../../held.js'
import type { NodeOptions } from '../../options.js'
import { hostnameOf, nbdFilename, placeOf } from './address.js'
import { NbdDriver, type SharedLink } from './driver.js'
import { Link } from './link.js'
import { TlsClient } from './tls-client.js'

export interface NbdContext {
  readonly engine: IoEngine
  readonly held: HeldRequests
  /** The driver in use until now, when the node is being reopened. */
  readonly previous: BlockDriver | undefined
  log(level: 'info' | 'warn', text: string): void
}

/** @throws CommandError with the reference texts */
export async function openNbd(spec: NodeSpec, options: NodeOptions, context: NbdContext): Promise<NbdDriver> {
  const { previous } = context
  if (previous instanceof NbdDriver && previous.shared.place !== nbdFilename(spec))
    throw new CommandError("Cannot change the option 'server'")
  const shared = previous instanceof NbdDriver ? previous.shared : await connect(spec, context)
  try {
    const readOnly = options.readOnly || onlyToRead(shared.link, options)
    const bitmap = bitmapOf(spec)
    if (bitmap !== undefined && !shared.link.agreed.contexts.some(({ name }) => name === bitmap))
      throw new CommandError(`requested x-dirty-bitmap ${bitmap} not found`)
    return new NbdDriver(context.engine, shared, context.held, {
      name: spec['node-name'],
      context: bitmap ?? ALLOCATION,
      readOnly,
      noFlush: options.noFlush,
    })
  } catch (error) {
    if (shared.users === 0) await shared.link.close()
    throw error
  }
}

async function connect(spec: NodeSpec, { engine, held, log }: NbdContext): Promise<SharedLink> {
  const reconnectMs = 1000 * ((spec['reconnect-delay'] as number | undefined) ?? 0)
  const openMs = 1000 * ((spec['open-timeout'] as number | undefined) ?? 0)
  const onLost = () => {
    // With a delay the user vouches for the server that comes back.
    if (shared.unflushed && reconnectMs === 0) shared.doubtful = true
  }
  using _held = held.hold('open', spec['node-name'])
  const place = placeOf(spec)
  const context = bitmapOf(spec) ?? ALLOCATION
  const credentials = spec.credentials as CredentialsPlace | undefined
  const tls = credentials && (await TlsClient.open(engine, credentials, hostnameOf(spec, place)))
  const target = { ...place, context, loneBitmap: spec['lone-bitmap'] === true, tls }
  const link = await Link.open({ target, reconnectMs, onLost, log }, openMs)
  const shared: SharedLink = { link, place: nbdFilename(spec), users: 0, unflushed: false, doubtful: false }
  return shared
}

/** The context that takes the place of base:allocation, which is an ordinary one. */
function bitmapOf(spec: NodeSpec): string | undefined {
  const name = spec['x-dirty-bitmap'] as string | undefined
  return name === ALLOCATION ? undefined : name
}

/** @throws CommandError when it is not to be */
function onlyToRead({ agreed }: Link, { autoReadOnly }: NodeOptions): boolean {
  if (!hasFlag(agreed.flags, 'READ_ONLY')) return false
  if (!autoReadOnly) throw new CommandError('request on write denied without write permission')
  return true
}
