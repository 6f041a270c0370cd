// SPDX-License-Identifier: Apache-2.0
// Signals of the daemon. SIGPIPE needs nothing: Node ignores it, writing to a gone peer is an error of that write.

export interface SignalActions {
  /** SIGTERM or SIGINT for the first time: end in order. */
  stop(signal: NodeJS.Signals): void
  /** One of them again: end at once. */
  stopNow(): void
  /** SIGHUP: read the configuration again. */
  reload(): void
}

export function installSignals(actions: SignalActions): void {
  let stopping = false
  const end = (signal: NodeJS.Signals) => {
    if (stopping) actions.stopNow()
    else {
      stopping = true
      actions.stop(signal)
    }
  }
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
  process.on('SIGHUP', () => actions.reload())
  // Without a handler of ours Node would open its inspector on this signal.
  process.on('SIGUSR1', () => undefined)
}
