// SPDX-License-Identifier: Apache-2.0
// Hostile images: the check ends, says what is wrong, and a repair never makes it worse.

import path from 'node:path'
import t from 'tap'
import { FormatError } from '../../../../../../../protocol/format-error.js'
import { checker } from '../../../../../../helpers/check-image.js'
import { hostile } from '../hostile.js'

for (const { name, make, says } of hostile) {
  t.test(`the check tells of ${name}`, async (t) => {
    const file = path.join(t.testdir({}), 'a.qcow2')
    make(file)
    const check = checker(t)
    const found = await check(file).catch((error: unknown) => {
      if (!(error instanceof FormatError)) throw error
      return error
    })
    if (found instanceof FormatError) {
      t.match(found.message, says)
      return
    }
    t.match(found.lines.join('\n'), says)
    t.ok(found.corruptions + found.leaks + found.checkErrors > 0, 'and counts it')
    const fixed = await check(file, 'all')
    const after = await check(file)
    t.ok(
      after.corruptions <= found.corruptions,
      `${found.corruptions} corruptions, then ${after.corruptions}`,
    )
    t.ok(after.corruptions <= fixed.corruptions, 'a repair tells what it could not mend')
  })
}
