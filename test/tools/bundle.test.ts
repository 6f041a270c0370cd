// SPDX-License-Identifier: Apache-2.0
// What users run, and every test that starts a program or a thread, is made of what was built last.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { ENTRIES, entryFile } from '../../daemon/common/entries.js'
import { buildFolder } from '../helpers/program.js'

type Name = keyof typeof ENTRIES
const names = Object.keys(ENTRIES) as Name[]
const folder = dirname(entryFile('blockferryd'))

function filesOf(root: string, ending: string): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending))
    .map((name) => join(root, name))
}

t.test('no program is older than what it was bundled from', async (t) => {
  const bundled = Math.min(...names.map((name) => statSync(entryFile(name)).mtimeMs))
  const newer = ['daemon', 'native', 'protocol']
    .flatMap((root) => filesOf(`${buildFolder}${root}`, '.js'))
    .filter((file) => statSync(file).mtimeMs > bundled)
  t.same(newer, [], 'npm run build bundles what tsc built')
})

t.test('source maps lead to the TypeScript files', async (t) => {
  for (const file of filesOf(folder, '.js.map')) {
    const { sources } = JSON.parse(readFileSync(file, 'utf8')) as { sources: string[] }
    const ours = sources.filter((source) => !source.includes('node_modules'))
    t.same(
      ours.filter((source) => !source.endsWith('.ts') || !existsSync(join(dirname(file), source))),
      [],
      file,
    )
    t.not(ours.length, 0, file)
  }
})
