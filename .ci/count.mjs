// SPDX-License-Identifier: Apache-2.0
// Counts test results in TAP files under the folders named, tells the failed and skipped ones, and prints one last line
// `N passed, N failed, N skipped`. A result that sums up others is not counted, those are. Exit status 1 when one failed.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const counts = { passed: 0, failed: 0, skipped: 0 }

for (const folder of process.argv.slice(2)) {
  if (!existsSync(folder)) continue
  for (const name of readdirSync(folder, { recursive: true }).filter((each) => each.endsWith('.tap'))) {
    count(readFileSync(join(folder, name), 'utf8'), name)
  }
}
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`)
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0

/** @param {string} text @param {string} file */
function count(text, file) {
  /** Depths at which results were seen since the last result further out. */
  let deeper = []
  for (const line of text.split('\n')) {
    const result = /^( *)(not ok|ok)\b(.*)$/.exec(line)
    if (!result) continue
    const [, indent = '', verdict, title = ''] = result
    const depth = indent.length
    const sums = deeper.some((each) => each > depth)
    deeper = [...deeper.filter((each) => each <= depth), depth]
    if (sums && verdict === 'ok') continue
    if (sums && /# SKIP|# TODO/i.test(title)) continue
    tally(verdict, title, sums, file)
  }
}

/** @param {string | undefined} verdict @param {string} title @param {boolean} sums @param {string} file */
function tally(verdict, title, sums, file) {
  if (/# (SKIP|TODO)/i.test(title)) {
    counts.skipped++
    process.stdout.write(`skipped: ${file}:${title}\n`)
  } else if (verdict === 'ok') counts.passed++
  else if (!sums) {
    counts.failed++
    process.stdout.write(`failed: ${file}:${title}\n`)
  }
}
