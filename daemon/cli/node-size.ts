// SPDX-License-Identifier: Apache-2.0
// How large a node is. Used by mirror (does the source fit?) and map (where does the image end?).

import type { Client } from './client.js'
import { asObject, numberOf, objectsOf, textOf } from './values.js'

/** @returns bytes, as the daemon rounds them; 0 for a node that is not there */
export async function sizeOfNode(client: Client, name: string): Promise<number> {
  const nodes = objectsOf(await client.execute('query-named-block-nodes', { flat: true }))
  const node = nodes.find((one) => textOf(one, 'node-name') === name)
  return numberOf(asObject(node?.image), 'virtual-size') ?? 0
}
