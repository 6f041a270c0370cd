// SPDX-License-Identifier: Apache-2.0
// What images made by qemu-img name is filled into definitions; what is not to be trusted is refused.

import { execFileSync, spawnSync } from 'node:child_process'
import { linkSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { NodeDefinition } from '../../../../daemon/iothread/messages.js'
import { formatHeader, parseHeader } from '../../../../protocol/qcow2/header.js'
import { testGraph } from '../../../helpers/graph.js'
import { installed } from '../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const file = (filename: string, name = 'f') => ({ driver: 'file', 'node-name': name, filename })
const qcow2 = (filename: string) => ({ driver: 'qcow2', 'node-name': 'top', file: file(filename) })

/** A folder with images, and what becomes of a definition. */
function scene(t: Test) {
  const folder = t.testdir()
  const g = testGraph(t)
  return {
    ...g,
    folder,
    image: (name: string, ...options: string[]) => {
      execFileSync('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', ...options, name, '1M'], { cwd: folder })
      return `${folder}/${name}`
    },
    resolve: (definition: NodeDefinition = qcow2(`${folder}/top.qcow2`)) =>
      g.graph.resolve({ ...definition, 'node-name': 'top' }),
  }
}

/** The files of a chain by their drivers, from the top down: 'qcow2 a', 'raw b'. */
function chain(definition: NodeDefinition): string[] {
  const { driver, file, backing, filename } = definition as NodeDefinition & Record<string, NodeDefinition>
  const name = String(filename ?? file?.filename ?? file?.driver).replace(/^.*\//, '')
  return [`${driver} ${name}`, ...(backing ? chain(backing) : [])]
}

t.test('a chain of relative names is filled in, read from the folder of each image', { skip }, async (t) => {
  const s = scene(t)
  execFileSync('mkdir', [`${s.folder}/sub`])
  s.image('top.qcow2', '-b', 'sub/mid.qcow2', '-F', 'qcow2')
  s.image('sub/mid.qcow2', '-b', '../base.raw', '-F', 'raw')
  writeFileSync(`${s.folder}/base.raw`, 'x')
  t.strictSame(await s.resolve(), {
    ...qcow2(`${s.folder}/top.qcow2`),
    named: 'sub/mid.qcow2',
    backing: {
      driver: 'qcow2',
      file: { driver: 'file', filename: `${s.folder}/sub/mid.qcow2` },
      named: '../base.raw',
      backing: {
        driver: 'raw',
        file: { driver: 'file', filename: `${s.folder}/sub/../base.raw` },
        implied: true,
      },
      implied: true,
    },
  })
})

t.test('what the user says of a backing file is left as it is', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2', '-b', 'base.qcow2', '-F', 'qcow2')
  for (const backing of [null, 'node']) {
    const definition = { ...qcow2(`${s.folder}/top.qcow2`), backing }
    t.strictSame(await s.resolve(definition), definition)
  }
})

t.test('below an explicit backing file the images are asked again', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2')
  s.image('mid.qcow2', '-b', 'base.qcow2', '-F', 'qcow2')
  s.image('base.qcow2')
  const mid = { driver: 'qcow2', file: file(`${s.folder}/mid.qcow2`, 'm') }
  const resolved = await s.resolve({ ...qcow2(`${s.folder}/top.qcow2`), backing: mid })
  t.same(chain(resolved), ['qcow2 top.qcow2', 'qcow2 mid.qcow2', 'qcow2 base.qcow2'])
})

t.test('without a format a backing file is what it looks like', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2', '-b', 'mid', '-F', 'qcow2')
  s.image('mid', '-b', 'base', '-F', 'raw')
  for (const name of ['top.qcow2', 'mid']) {
    const bytes = readFileSync(`${s.folder}/${name}`)
    const header = parseHeader(bytes.subarray(0, 65536))
    const extensions = header.extensions.filter(({ type }) => type !== 0xe2792aca)
    writeFileSync(`${s.folder}/${name}`, formatHeader({ ...header, extensions }))
  }
  writeFileSync(`${s.folder}/base`, Buffer.alloc(512))
  t.same(chain(await s.resolve()), ['qcow2 top.qcow2', 'qcow2 mid', 'raw base'])
})

t.test('a raw backing file that looks like an image is raw when the image says so', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2', '-b', 'base', '-F', 'raw')
  s.image('base', '-b', '/etc/passwd', '-F', 'raw')
  t.same(chain(await s.resolve()), ['qcow2 top.qcow2', 'raw base'])
})

t.test('a json: name may be nested or dotted, and names no node', { skip }, async (t) => {
  const s = scene(t)
  const base = s.image('base.qcow2')
  const named = async (name: string) => {
    s.image('top.qcow2', '-b', `json:${name}`, '-F', 'qcow2')
    return s.resolve()
  }
  for (const options of [
    { driver: 'qcow2', 'node-name': 'mine', file: { driver: 'file', filename: base } },
    { driver: 'qcow2', 'file.driver': 'file', 'file.filename': base },
    { driver: 'file', filename: base },
  ])
    t.strictSame((await named(JSON.stringify(options))).backing, {
      driver: 'qcow2',
      file: { driver: 'file', filename: base },
      implied: true,
    })
  for (const [name, text] of [
    ['{"driver":"qcow2","file":"node"}', "An image may not name node 'node'"],
    ['{"driver":"qcow2","file":{"driver":"x-memory","size":1}}', "Unknown driver 'x-memory'"],
    ['{"driver":"qcow2"}', "Parameter 'file' is missing"],
    ['{', 'Could not parse the JSON options: JSON parse error, premature EOI'],
    ['[1]', 'Invalid JSON object given'],
  ] as const)
    await t.rejects(named(name), { message: `Could not open backing file: ${text}` })
})

t.test('what an image cannot have below it is refused by name', { skip }, async (t) => {
  const s = scene(t)
  execFileSync('mkfifo', [`${s.folder}/fifo`])
  for (const [name, format, text] of [
    ['missing', 'raw', `Could not open '${s.folder}/missing': No such file or directory`],
    ['fifo', 'raw', `'file' driver requires '${s.folder}/fifo' to be a regular file`],
    ['.', 'qcow2', `'file' driver requires '${s.folder}/.' to be a regular file`],
    ['/dev/zero', 'raw', "'file' driver requires '/dev/zero' to be a regular file"],
    ['nbd://host/x', 'raw', "Unknown protocol 'nbd'"],
    ['http://host/x', 'raw', "Unknown protocol 'http'"],
    ['top.qcow2.vmdk', 'vmdk', `Could not open '${s.folder}/top.qcow2.vmdk': Unknown driver 'vmdk'`],
  ] as const) {
    writeFileSync(`${s.folder}/top.qcow2.vmdk`, '')
    s.image('top.qcow2', '-b', name, '-F', format)
    await t.rejects(s.resolve(), { message: `Could not open backing file: ${text}` }, name)
  }
})

t.test('a missing file deep in the chain is told through every image above it', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2', '-b', 'mid.qcow2', '-F', 'qcow2')
  s.image('mid.qcow2', '-b', 'missing', '-F', 'raw')
  const text = `Could not open '${s.folder}/missing': No such file or directory`
  await t.rejects(s.resolve(), {
    message: `Could not open backing file: Could not open backing file: ${text}`,
  })
})

t.test('an image below itself is refused, under whatever name', { skip }, async (t) => {
  const s = scene(t)
  const top = s.image('top.qcow2', '-b', 'mid.qcow2', '-F', 'qcow2')
  linkSync(top, `${s.folder}/other.qcow2`)
  s.image('mid.qcow2', '-b', 'other.qcow2', '-F', 'qcow2')
  await t.rejects(s.resolve(), {
    message: /Backing file '.*\/other.qcow2' creates an infinite loop\.$/,
  })
})

/** Images 0 to count - 1, each over the next. */
function makeChain(folder: string, count: number): void {
  const header = parseHeader(readFileSync(`${folder}/0`).subarray(0, 65536))
  for (let index = 0; index < count - 1; index++)
    writeFileSync(`${folder}/${index}`, formatHeader({ ...header, backingFile: String(index + 1) }))
  writeFileSync(`${folder}/${count - 1}`, formatHeader({ ...header, backingFile: undefined, extensions: [] }))
}

t.test('a chain may be 200 images long and no longer', { skip }, async (t) => {
  const s = scene(t)
  s.image('0', '-b', '1', '-F', 'qcow2')
  makeChain(s.folder, 200)
  t.equal(chain(await s.resolve(qcow2(`${s.folder}/0`))).length, 200)
  makeChain(s.folder, 201)
  await t.rejects(s.resolve(qcow2(`${s.folder}/0`)), { message: 'Backing chain is longer than 200 images' })
})

t.test('a data file is the path the image has, whatever it looks like', { skip }, async (t) => {
  const s = scene(t)
  const data = `${s.folder}/data`
  s.image('top.qcow2', '-o', `data_file=${data}`)
  const resolved = await s.resolve()
  t.strictSame(resolved['data-file'], { driver: 'file', filename: data, implied: true })
  const given = { ...qcow2(`${s.folder}/top.qcow2`), 'data-file': file(data, 'd') }
  t.strictSame(await s.resolve(given), given)
})

t.test('images in open nodes and below filters are looked into', { skip }, async (t) => {
  const s = scene(t)
  const top = s.image('top.qcow2', '-b', 'base.raw', '-F', 'raw')
  writeFileSync(`${s.folder}/base.raw`, '')
  const shifted = `${s.folder}/shifted`
  writeFileSync(shifted, Buffer.concat([Buffer.alloc(1024), readFileSync(top)]))
  await s.add({ driver: 'raw', 'node-name': 'open', file: file(top) })
  for (const child of [
    'open',
    { driver: 'raw', 'node-name': 'r', offset: 1024, file: file(shifted, 's') },
    { driver: 'throttle', 'node-name': 't', 'throttle-group': 'g', file: file(top, 'g') },
  ]) {
    const resolved = await s.resolve({ driver: 'qcow2', file: child })
    t.same(chain(resolved.backing as NodeDefinition), ['raw base.raw'])
  }
})

t.test('what cannot be looked into is left for opening to refuse', async (t) => {
  const s = scene(t)
  writeFileSync(`${s.folder}/text`, 'no image')
  spawnSync('mkfifo', [`${s.folder}/fifo`])
  for (const name of ['missing', 'text', 'fifo', '.']) {
    const definition = qcow2(`${s.folder}/${name}`)
    t.strictSame(await s.resolve(definition), definition)
  }
  const memory = { driver: 'qcow2', 'node-name': 'top', file: { driver: 'x-memory', size: 512 } }
  t.strictSame(await s.resolve(memory), memory)
})

t.test('looking takes no buffer and no file away', { skip }, async (t) => {
  const s = scene(t)
  s.image('top.qcow2', '-b', 'base.qcow2', '-F', 'qcow2')
  s.image('base.qcow2')
  const before = s.engine.stats().slotsInUse
  await s.resolve()
  t.equal(s.engine.stats().slotsInUse, before)
  t.notMatch(openFiles().join('\n'), /\.qcow2/)
})

/** What the descriptors of this process lead to; others of its threads may end meanwhile. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })
}
