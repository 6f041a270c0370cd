// SPDX-License-Identifier: Apache-2.0
// Writes docs/reference.md; run by `npm run docs`.

import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { referenceText } from '../../protocol/schema/reference.js'

const docs = new URL('../../../docs/', import.meta.url)
mkdirSync(docs, { recursive: true })
writeFileSync(fileURLToPath(new URL('reference.md', docs)), referenceText())
