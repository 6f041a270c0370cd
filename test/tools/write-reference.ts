// SPDX-License-Identifier: Apache-2.0
// Writes docs/reference.md; run by `npm run docs`. With --check (`npm run docs:check`) it writes nothing: it prints the
// first line that is stale and ends with status 1.

import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { referenceText } from '../../protocol/schema/reference.js'

const file = fileURLToPath(new URL('../../../docs/reference.md', import.meta.url))

function check(): void {
  const text = referenceText()
  const written = readFileSync(file, 'utf8')
  if (written === text) return
  const [is, should] = [written.split('\n'), text.split('\n')]
  const at = should.findIndex((line, index) => line !== is[index])
  // -1: the file only has more lines.
  const line = at < 0 ? should.length : at
  const told = `docs/reference.md is stale from line ${line + 1} on; npm run docs writes it\n`
  process.stderr.write(`${told}- ${is[line] ?? ''}\n+ ${should[line] ?? ''}\n`)
  process.exitCode = 1
}

if (process.argv[2] === '--check') check()
else writeFileSync(file, referenceText())
