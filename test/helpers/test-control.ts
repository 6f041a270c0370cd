// SPDX-License-Identifier: Apache-2.0
// The control of a job that nobody steers, for tests of bodies and of what they use.

import type { JobControl } from '../../daemon/iothread/jobs/body.js'

/** Never paused; waits as a job does. */
export class TestControl implements JobControl {
  readonly cancel = new AbortController()
  readonly signal = this.cancel.signal
  readonly pausing = false
  #awake: (() => void) | undefined

  async pausePoint(): Promise<void> {}
  async wait(timeoutMs?: number): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#awake = resolve
      if (timeoutMs !== undefined) setTimeout(resolve, timeoutMs)
    })
  }
  wake(): void {
    this.#awake?.()
  }
  phase(): void {}
  ready(): void {}
  ioError(): 'report' {
    return 'report'
  }
}
