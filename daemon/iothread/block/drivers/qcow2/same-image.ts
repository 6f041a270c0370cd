// SPDX-License-Identifier: Apache-2.0
// What of an image stays as it was when its node was opened: the driver is made for it, and the nodes below were opened by it.
// While nobody uses a node other programs may change its image; one that they made another is refused. Used by the qcow2 map.

import {
  ExtensionType,
  extensionText,
  type Header,
  Incompatible,
} from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'

type Part = readonly [what: string, of: (header: Header) => unknown]

const form: readonly Part[] = [
  ['cluster size', ({ clusterBits }) => clusterBits],
  ['size of L2 entries', ({ incompatible }) => incompatible.has(Incompatible.extendedL2)],
  ['width of refcounts', ({ refcountOrder }) => refcountOrder],
  ['data file', ({ incompatible }) => incompatible.has(Incompatible.dataFile)],
  ['data file', (header) => extensionText(header, ExtensionType.dataFile)],
]

const chain: readonly Part[] = [
  ['backing file', ({ backingFile }) => backingFile],
  ['format of the backing file', (header) => extensionText(header, ExtensionType.backingFormat)],
]

/**
 * @param names  whether it counts what the image says of its backing file
 * @param node   named in the error
 * @throws CommandError when somebody made it another image
 */
export function checkSame(before: Header, now: Header, names: boolean, node: string): void {
  for (const [what, of] of names ? [...form, ...chain] : form)
    if (of(before) !== of(now)) throw changed(what, node)
}

/**
 * @param named  the backing file that the image named when the nodes below were chosen, '' without one; else unknown
 * @throws CommandError when it names another one now
 */
export function checkNamed({ backingFile }: Header, named: unknown, node: string): void {
  if (typeof named === 'string' && named !== (backingFile ?? '')) throw changed('backing file', node)
}

function changed(what: string, node: string): CommandError {
  return new CommandError(
    `Another program has changed the ${what} of the image while node '${node}' was not in use: open it anew`,
  )
}
