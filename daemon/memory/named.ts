// SPDX-License-Identifier: Apache-2.0
// Codecs say what is wrong with bytes, and where; whoever reads them adds whose bytes they are.

import { FormatError } from '../../protocol/format-error.js'

/** @param name  of the file or connection */
export function namedAs<T>(name: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    if (error instanceof FormatError) throw new FormatError(`${name}: ${error.message}`, { cause: error })
    throw error
  }
}
