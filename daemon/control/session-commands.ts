// SPDX-License-Identifier: Apache-2.0
// Commands about the daemon and its connections: query-version, query-commands, query-qmp-schema, query-chardev, quit.
// All but quit answer at once. qmp_capabilities belongs to the dialect.

import type { Version } from '../../protocol/qmp.js'
import { querySchema } from '../../protocol/schema/introspect.js'
import type { Handlers } from './commands.js'
import type { Dispatcher } from './dispatch.js'

/** A character device or socket as `query-chardev` tells of it. */
export interface ChardevInfo {
  readonly label: string
  readonly filename: string
  readonly 'frontend-open': boolean
}

export interface SessionCommandDeps {
  readonly version: Version
  readonly dispatcher: Dispatcher
  chardevs(): ChardevInfo[]
  /** Ends the daemon's work; resolves when the reply may be sent. The process ends after it. */
  quit(): Promise<void>
}

export function sessionCommands(deps: SessionCommandDeps): Handlers {
  return {
    'query-version': () => deps.version,
    'query-commands': () => ['qmp_capabilities', ...deps.dispatcher.names()].map((name) => ({ name })),
    'query-qmp-schema': () => querySchema(),
    'query-chardev': () => deps.chardevs(),
    quit: () => deps.quit(),
  }
}
