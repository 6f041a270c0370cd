// SPDX-License-Identifier: Apache-2.0
// How the errors of this folder say what was found and what was expected.

import { FormatError } from '../format-error.js'

export { hex, hexDump, quoted } from '../error-text.js'

/** "thing: found 1, expected 2", the form of all errors of this folder that compare. */
export function unexpected(thing: string, found: string | number, expected: string | number): FormatError {
  return new FormatError(`${thing}: found ${found}, expected ${expected}`)
}
