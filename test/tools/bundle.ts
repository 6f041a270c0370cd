// SPDX-License-Identifier: Apache-2.0
// Bundles what tsc built: each program and each worker thread becomes one file in .build/program, beside parts that it loads
// only when it needs them. Run by `npm run build`, after tsc. Why: docs/decisions/0009-bundled-programs.md.
// Every entry is bundled by itself: what two of them share is in both, so that none loads code it has no use for.

import { chmodSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { fileURLToPath } from 'node:url'
import { type Plugin, rolldown } from 'rolldown'
import { ENTRIES } from '../../daemon/common/entries.js'

const built = fileURLToPath(new URL('../..', import.meta.url))
const folder = `${built}program`
/** They take the place of the old ones together. */
const fresh = `${folder}.new`

/** Maps of tsc, so that those of the bundle lead to the TypeScript files. */
const mapsOfTsc: Plugin = {
  name: 'maps-of-tsc',
  load: (file) =>
    file.startsWith(built)
      ? { code: readFileSync(file, 'utf8'), map: readFileSync(`${file}.map`, 'utf8') }
      : undefined,
}

async function bundle(name: string, module: string): Promise<void> {
  const build = await rolldown({
    input: { [name]: `${built}${module}` },
    external: isBuiltin,
    platform: 'node',
    plugins: [mapsOfTsc],
    onLog(_level, log) {
      throw new Error(log.message)
    },
  })
  await build.write({
    dir: fresh,
    format: 'esm',
    entryFileNames: '[name].js',
    // A program that runs already finds its own parts or none, never others of the same name.
    chunkFileNames: `${name}-[name]-[hash].js`,
    // One character above U+00FF anywhere would make V8 keep all of the file in two bytes a character.
    charset: 'ascii',
    comments: false,
    sourcemap: true,
  })
  await build.close()
  chmodSync(`${fresh}/${name}.js`, 0o755)
}

rmSync(fresh, { recursive: true, force: true })
for (const [name, module] of Object.entries(ENTRIES)) await bundle(name, module)
rmSync(folder, { recursive: true, force: true })
renameSync(fresh, folder)
