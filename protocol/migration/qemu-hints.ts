// SPDX-License-Identifier: Apache-2.0
// Which QEMU may have written an image. Nothing in one says so: what is told here are lower bounds, from what only newer
// versions write. Pure; for tools that look at files.

import type { Configuration } from './configuration.js'

export interface QemuHint {
  /** "10.0": that version or a later one. */
  readonly atLeast: string
  readonly because: string
}

/** What the hints go by. */
export interface HintFacts {
  readonly configuration: Configuration
  /** Names of commands in front of the end of RAM. */
  readonly commands: readonly string[]
  /** Sync points of multifd stand in the stream once per walk over memory. */
  readonly syncPerWalk: boolean
}

/** The strongest first. */
export function qemuHints({ configuration, commands, syncPerWalk }: HintFacts): QemuHint[] {
  const { machine, capabilities = [] } = configuration
  const hints: QemuHint[] = []
  const version = /-(\d+\.\d+)(?:\.\d+)?$/.exec(machine)?.[1]
  if (version !== undefined) hints.push({ atLeast: version, because: `machine type ${machine}` })
  if (commands.includes('SWITCHOVER_START'))
    hints.push({ atLeast: '10.0', because: 'command SWITCHOVER_START' })
  if (capabilities.includes('mapped-ram')) hints.push({ atLeast: '9.0', because: 'format mapped-ram' })
  if (syncPerWalk) hints.push({ atLeast: '8.1', because: 'one sync point of multifd per walk' })
  return hints.sort((one, other) => Number(other.atLeast) - Number(one.atLeast))
}
