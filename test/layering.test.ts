// SPDX-License-Identifier: Apache-2.0
// Reads the import lines of the product and keeps the layers of the design true: imports point inward.

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

interface Layer {
  readonly name: string
  readonly files: RegExp
  /** Layers it may import besides itself. */
  readonly may: readonly string[]
}

const leaves = ['protocol', 'common', 'native']
/** The first layer whose pattern fits a file is its layer. */
const layers: readonly Layer[] = [
  { name: 'protocol', files: /^protocol\//, may: [] },
  { name: 'common', files: /^daemon\/(common\/|errors\.ts$)/, may: ['protocol'] },
  { name: 'native', files: /^native\//, may: [] },
  // Types only: what crosses threads.
  {
    name: 'messages',
    files: /^daemon\/(iothread|memory|nbd|images|tls)\/messages(-\w+)?\.ts$/,
    may: leaves,
  },
  {
    name: 'handle',
    files: /^daemon\/(iothread|memory|nbd|images)\/handle\.ts$/,
    may: [...leaves, 'messages'],
  },
  { name: 'tls', files: /^daemon\/tls\//, may: [...leaves, 'messages'] },
  // Knows nothing of what it runs: formats use it as much as copies do.
  { name: 'tasks', files: /^daemon\/iothread\/copy\/task-pool\.ts$/, may: [] },
  { name: 'block', files: /^daemon\/iothread\/block\//, may: [...leaves, 'messages', 'tasks', 'tls'] },
  { name: 'copy', files: /^daemon\/iothread\/copy\//, may: [...leaves, 'messages', 'tasks', 'block'] },
  {
    name: 'work',
    files: /^daemon\/iothread\/(jobs|exports)\//,
    may: [...leaves, 'messages', 'tasks', 'block', 'copy', 'http'],
  },
  {
    name: 'iothread',
    files: /^daemon\/iothread\//,
    may: [...leaves, 'messages', 'block', 'copy', 'work'],
  },
  // Of disks it uses what is not about disks: pools of tasks, rates, the life of a job in its worker.
  { name: 'memory', files: /^daemon\/memory\//, may: [...leaves, 'messages', 'tasks', 'copy', 'work'] },
  // Connections of clients, whichever thread has them.
  { name: 'http', files: /^daemon\/http\//, may: leaves },
  { name: 'sockets', files: /^daemon\/(sockets|start-error)\.ts$/, may: leaves },
  { name: 'nbd', files: /^daemon\/nbd\//, may: [...leaves, 'messages', 'sockets', 'tls'] },
  { name: 'images', files: /^daemon\/images\//, may: [...leaves, 'messages', 'sockets', 'http', 'tls'] },
  { name: 'control', files: /^daemon\/control\//, may: [...leaves, 'messages', 'handle'] },
  { name: 'cli', files: /^daemon\/cli\//, may: ['protocol', 'common'] },
  {
    name: 'main',
    files: /^daemon\/[^/]+\.ts$/,
    may: [...leaves, 'messages', 'handle', 'control', 'sockets'],
  },
]

/** Modules that wait for storage, name servers or other programs: none of that on the main thread after start-up. */
const waiting = /^(node:)?(fs|fs\/promises|dns|dns\/promises|child_process)$/

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((name) => name.endsWith('.ts') && !/(^|\/)(node_modules|build)\//.test(name))
}

function imports(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  const found = text.matchAll(
    /^(?:import|export)\b[^'"]*?from\s+['"]([^'"]+)['"]|\bimport\(['"]([^'"]+)['"]\)/gm,
  )
  return [...found].map((match) => match[1] ?? match[2] ?? '')
}

function target(file: string, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) return undefined
  return relative('.', normalize(join(dirname(file), specifier))).replace(/\.js$/, '.ts')
}

function layerOf(file: string): Layer | undefined {
  return layers.find((layer) => layer.files.test(file))
}

const files = ['protocol', 'native', 'daemon'].flatMap(sources)

t.test('every source file belongs to a layer', async (t) => {
  t.same(
    files.filter((file) => layerOf(file) === undefined),
    [],
  )
})

t.test('imports point inward', async (t) => {
  const wrong = files.flatMap((file) => {
    const from = layerOf(file)
    return imports(file).flatMap((specifier) => {
      const to = target(file, specifier)
      const layer = to === undefined ? undefined : layerOf(to)
      if (from === undefined || layer === undefined || layer === from || from.may.includes(layer.name))
        return []
      return [`${file} (${from.name}) imports ${to} (${layer.name})`]
    })
  })
  t.same(wrong, [])
})

t.test('the control plane imports nothing that waits for storage, names or programs', async (t) => {
  const wrong = files
    .filter((file) => file.startsWith('daemon/control/'))
    .flatMap((file) =>
      imports(file)
        .filter((name) => waiting.test(name))
        .map((name) => `${file} imports ${name}`),
    )
  t.same(wrong, [])
})

t.test('nothing imports the command line client', async (t) => {
  const wrong = files.filter(
    (file) =>
      !file.startsWith('daemon/cli/') &&
      imports(file).some((specifier) => target(file, specifier)?.startsWith('daemon/cli/')),
  )
  t.same(wrong, [])
})
