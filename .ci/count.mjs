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
  /** The tests a line is in, by depth. @type {{ depth: number, name: string }[]} */
  let within = []
  for (const line of text.split('\n')) {
    const subtest = /^( *)# Subtest: (.*)$/.exec(line)
    if (subtest) {
      const depth = subtest[1]?.length ?? 0
      within = [...within.filter((each) => each.depth < depth), { depth, name: subtest[2] ?? '' }]
      continue
    }
    const result = /^( *)(not ok|ok)\b(.*)$/.exec(line)
    if (!result) continue
    const [, indent = '', verdict, title = ''] = result
    const depth = indent.length
    const sums = deeper.some((each) => each > depth)
    deeper = [...deeper.filter((each) => each <= depth), depth]
    if (sums && verdict === 'ok') continue
    if (sums && /# SKIP|# TODO/i.test(title)) continue
    const names = within.filter((each) => each.depth < depth).map(({ name }) => name)
    tally(verdict, title, sums, [file, ...names].join(' > '))
  }
}

/** @param {string | undefined} verdict @param {string} title @param {boolean} sums @param {string} where */
function tally(verdict, title, sums, where) {
  if (/# (SKIP|TODO)/i.test(title)) {
    counts.skipped++
    process.stdout.write(`skipped: ${where}:${title}\n`)
  } else if (verdict === 'ok') counts.passed++
  else if (!sums) {
    counts.failed++
    process.stdout.write(`failed: ${where}:${title}\n`)
  }
}
