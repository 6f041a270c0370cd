// SPDX-License-Identifier: Apache-2.0
// PATCH of images: zeroing in steps, so that a ticket shows how far it came and a cancelled one stops; and flushing.

import type { PatchBody } from '../../../../protocol/http/json-body.js'
import type { Exchange } from '../../../http/exchange.js'
import { reachOrRefuse } from './put.js'
import type { ServedImage } from './served-image.js'

/** Bytes zeroed between two looks at whether the request was stopped. */
const STEP = 128 * 1024 * 1024

export async function zeroBytes(
  image: ServedImage,
  exchange: Exchange,
  { offset, size, flush }: Extract<PatchBody, { op: 'zero' }>,
): Promise<void> {
  const { ticket } = image
  using operation = ticket.begin('write', true, (refusal) => exchange.stream.interrupt(refusal))
  await reachOrRefuse(image, offset, size)
  for (let done = 0; done < size; done += STEP) {
    operation.check()
    const step = Math.min(STEP, size - done)
    await image.node.zero(offset + done, step, { unmap: ticket.spec.sparse, fast: false })
    operation.touched(offset + done, step)
  }
  operation.check()
  if (flush) await image.node.flush()
}

export async function flushImage(image: ServedImage, exchange: Exchange): Promise<void> {
  using _operation = image.ticket.begin('write', true, (refusal) => exchange.stream.interrupt(refusal))
  await image.node.flush()
}
