// SPDX-License-Identifier: Apache-2.0
// docs/reference.md says what the schema says.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { referenceText } from '../../../protocol/schema/reference.js'

t.test('docs/reference.md is what `npm run docs` writes', (t) => {
  const written = readFileSync(new URL('../../../../docs/reference.md', import.meta.url), 'utf8')
  t.equal(written, referenceText())
  t.end()
})
