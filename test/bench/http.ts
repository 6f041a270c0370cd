// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- images`: images over HTTP, against the reference server (--imageio DIR) and tools on the same disk.

import { downloads, sparseUploads, uploads } from './http-copies.js'
import { manyExtents, smallRequests } from './http-requests.js'
import { zeroing } from './http-zero.js'
import type { BenchOptions } from './options.js'
import type { Verdict } from './report.js'

/** Each can be asked for by its own name, too. */
export const imageParts = {
  'images-up': uploads,
  'images-down': downloads,
  'images-sparse': sparseUploads,
  'images-zero': zeroing,
  'images-small': smallRequests,
  'images-extents': manyExtents,
}

export async function images(options: BenchOptions): Promise<Verdict[]> {
  const verdicts: Verdict[] = []
  for (const part of Object.values(imageParts)) verdicts.push(...(await part(options)))
  return verdicts
}
