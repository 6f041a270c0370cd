// SPDX-License-Identifier: Apache-2.0
// Format of an image file by its first bytes, where nobody says it: the existing target of a drive-mirror.

import type { IoEngine } from '../../../native/types.js'
import { isQcow2 } from '../../../protocol/qcow2/header.js'
import type { SlotSource } from './drivers/qcow2/create.js'

/** Enough for every magic, and a whole sector of every device. Bytes. */
const LOOK = 4096

/** @returns 'raw' also where the file cannot be read: whoever opens it then says why */
export async function probeFormat(
  engine: IoEngine,
  slots: SlotSource,
  filename: string,
): Promise<'raw' | 'qcow2'> {
  const file = await engine.open(filename, { write: false })
  if (file < 0) return 'raw'
  const slot = await slots.acquire()
  try {
    const length = await engine.read(file, 0, LOOK, slot, 0)
    return isQcow2(slots.bytes(slot).subarray(0, Math.max(0, length))) ? 'qcow2' : 'raw'
  } finally {
    slots.give(slot)
    await engine.close(file)
  }
}
