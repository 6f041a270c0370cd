// SPDX-License-Identifier: Apache-2.0
// Starts the addon's engine of the kind that is asked for, or that the system allows. Used by engine.ts.

import { addon, type NativeEngine, type OnFinished } from './binding.js'
import { DEFAULT_SLOTS } from './slots.js'
import type { EngineKind, EngineOptions } from './types.js'

/** @throws Error as createEngine() */
export function startNative(
  options: EngineOptions,
  slotSize: number,
  onFinished: OnFinished,
): { kind: EngineKind; engine: NativeEngine } {
  const start = (kind: EngineKind) => ({
    kind,
    engine: new addon.Engine(
      kind,
      slotSize,
      options.maxSlots ?? DEFAULT_SLOTS,
      options.maxRequests ?? 256,
      options.maxBytes ?? 128 << 20,
      onFinished,
    ),
  })
  if (options.aio === 'auto') {
    try {
      return start('io_uring')
    } catch {
      return start('threads') // refused by the kernel, a container or a limit; threads do the same, with more switches
    }
  }
  return start(options.aio)
}
