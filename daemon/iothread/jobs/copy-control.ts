// SPDX-License-Identifier: Apache-2.0
// What a job's copy engine asks: the job's own control, with more to do in pauses. Used by mirror.ts.

import type { CopyControl } from '../copy/pace.js'
import type { JobControl } from './body.js'

export function copyControl(control: JobControl, pausePoint: () => Promise<void>): CopyControl {
  return {
    get signal() {
      return control.signal
    },
    get pausing() {
      return control.pausing
    },
    pausePoint,
    wait: (timeoutMs) => control.wait(timeoutMs),
    wake: () => control.wake(),
    ioError: (operation, error, fatal) => control.ioError(operation, error, fatal),
  }
}
