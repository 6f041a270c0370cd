// SPDX-License-Identifier: Apache-2.0
// Zeroing by PATCH, in steps, so that a ticket shows how far it came and a cancelled one stops.

import type { PatchBody } from '../../../../protocol/http/json-body.js'
import { checkReach } from './put.js'
import type { ServedImage } from './served-image.js'
import type { Operation } from './ticket.js'

/** Bytes zeroed between two looks at whether the request was stopped. */
const STEP = 128 * 1024 * 1024

export async function zeroBytes(
  image: ServedImage,
  operation: Operation,
  { offset, size, flush }: Extract<PatchBody, { op: 'zero' }>,
): Promise<void> {
  checkReach(image, offset, size)
  for (let done = 0; done < size; done += STEP) {
    operation.check()
    const step = Math.min(STEP, size - done)
    // Its last byte only: the rest is allocated, or not, by zeroing.
    await image.reach(offset + done + step - 1, 1)
    image.guest.seen()
    await image.node.zero(offset + done, step, { unmap: image.ticket.spec.sparse, fast: false })
    operation.touched(offset + done, step)
  }
  operation.check()
  if (flush) await image.flush()
}
