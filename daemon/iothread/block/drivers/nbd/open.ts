// SPDX-License-Identifier: Apache-2.0
// Opening of nbd nodes: what is refused and how it is said. Nothing stays open when it fails.

import type { IoEngine } from '../../../../../native/types.js'
import { hasFlag } from '../../../../../protocol/nbd/agreed.js'
import { CommandError } from '../../../../errors.js'
import type { NodeSpec } from '../../../messages.js'
import type { BlockDriver } from '../../driver.js'
import type { HeldRequests } from '../../held.js'
import type { NodeOptions } from '../../options.js'
import { nbdFilename, targetOf } from './address.js'
import { NbdDriver, type SharedLink } from './driver.js'
import { Link } from './link.js'

export interface NbdContext {
  readonly engine: IoEngine
  readonly held: HeldRequests
  /** The driver in use until now, when the node is being reopened. */
  readonly previous: BlockDriver | undefined
  log(level: 'info' | 'warn', text: string): void
}

/** @throws CommandError with the reference texts */
export async function openNbd(spec: NodeSpec, options: NodeOptions, context: NbdContext): Promise<NbdDriver> {
  if (spec['tls-creds'] !== undefined)
    throw new CommandError(
      "Parameter 'tls-creds' is not supported: connections to NBD servers are not encrypted",
    )
  const { previous } = context
  if (previous instanceof NbdDriver && previous.shared.place !== nbdFilename(spec))
    throw new CommandError("Cannot change the option 'server'")
  const shared = previous instanceof NbdDriver ? previous.shared : await connect(spec, context)
  try {
    const readOnly = options.readOnly || onlyToRead(shared.link, options)
    return new NbdDriver(context.engine, shared, context.held, {
      name: spec['node-name'],
      readOnly,
      noFlush: options.noFlush,
    })
  } catch (error) {
    if (shared.users === 0) shared.link.close()
    throw error
  }
}

async function connect(spec: NodeSpec, { held, log }: NbdContext): Promise<SharedLink> {
  const reconnectMs = 1000 * ((spec['reconnect-delay'] as number | undefined) ?? 0)
  const openMs = 1000 * ((spec['open-timeout'] as number | undefined) ?? 0)
  const onLost = () => {
    // With a delay the user vouches for the server that comes back.
    if (shared.unflushed && reconnectMs === 0) shared.doubtful = true
  }
  using _held = held.hold('open', spec['node-name'])
  const link = await Link.open({ target: targetOf(spec), reconnectMs, onLost, log }, openMs)
  const shared: SharedLink = { link, place: nbdFilename(spec), users: 0, unflushed: false, doubtful: false }
  return shared
}

/** @throws CommandError when it is not to be */
function onlyToRead({ agreed }: Link, { autoReadOnly }: NodeOptions): boolean {
  if (!hasFlag(agreed.flags, 'READ_ONLY')) return false
  if (!autoReadOnly) throw new CommandError('request on write denied without write permission')
  return true
}
