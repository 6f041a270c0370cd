// SPDX-License-Identifier: Apache-2.0
// A guest with a real Linux kernel whose first program writes to its disk and compares: by itself, or with fio
// (fixtures/linux-guest). The kernel is the machine's, or one that .ci/run unpacked; the initial file system is made here.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { buildFolder, installed } from './program.js'

const SOURCES = `${buildFolder}../test/fixtures/linux-guest`
/** Where kernels are looked for: folders with `boot` and `lib/modules`. */
const ROOTS = [process.env.GUEST_KERNEL_ROOT ?? '/opt/blockferry-ci-kernel', '/']
/** Drivers of the disk, in the order they are loaded; what is built in is no file. */
const DRIVERS = [
  'drivers/virtio/virtio',
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio_pci_legacy_dev',
  'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci',
  'drivers/block/virtio_blk',
]

export interface GuestKernel {
  readonly kernel: string
  /** Folder of its modules. */
  readonly modules: string
}

/** @returns the newest there is, or why there is none */
export function guestKernel(): GuestKernel | string {
  if (!installed('gcc')) return 'no gcc for the program of the guest'
  for (const root of ROOTS) {
    const boot = join(root, 'boot')
    const found = (existsSync(boot) ? readdirSync(boot) : [])
      .filter((name) => name.startsWith('vmlinuz-'))
      .sort()
    const name = found.at(-1)
    if (name === undefined) continue
    const version = name.slice('vmlinuz-'.length)
    const modules = ['lib/modules', 'usr/lib/modules']
      .map((folder) => join(root, folder, version, 'kernel'))
      .find((folder) => existsSync(folder))
    if (modules !== undefined) return { kernel: join(boot, name), modules }
  }
  return `no Linux kernel with its modules in ${ROOTS.join(' or ')}`
}

export type GuestProgram = 'writer' | 'verifier'

/** Makes the initial file system with the program; the verifier needs the machine's fio. @returns its path */
export function initialFileSystem(folder: string, { modules }: GuestKernel, program: GuestProgram): string {
  const init = join(folder, 'init')
  const source = join(SOURCES, `${program}.c`)
  execFileSync('gcc', ['-O2', '-static', '-Wall', '-Werror', '-o', init, source], { stdio: 'pipe' })
  const archive = new Archive()
  if (program === 'verifier') addFio(archive)
  archive.folder('dev')
  archive.device('dev/console', 5, 1)
  archive.file('init', readFileSync(init))
  for (const driver of DRIVERS) {
    const bytes = moduleBytes(join(modules, driver))
    if (bytes !== undefined) archive.file(`${basename(driver)}.ko`, bytes)
  }
  const path = join(folder, 'initrd')
  writeFileSync(path, archive.bytes())
  return path
}

/** The machine's fio as `/fio`, and the libraries it is linked with where it looks for them. */
function addFio(archive: Archive): void {
  const fio = execFileSync('sh', ['-c', 'command -v fio'], { encoding: 'utf8' }).trim()
  archive.file('fio', readFileSync(fio))
  for (const name of ['proc', 'sys', 'tmp']) archive.folder(name)
  const made = new Set<string>()
  for (const [, path = ''] of execFileSync('ldd', [fio], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g)) {
    const parts = path.split('/').slice(1, -1)
    for (const [index] of parts.entries()) {
      const above = parts.slice(0, index + 1).join('/')
      if (!made.has(above)) archive.folder(above)
      made.add(above)
    }
    archive.file(path.slice(1), readFileSync(path))
  }
}

function moduleBytes(path: string): Buffer | undefined {
  if (existsSync(`${path}.ko`)) return readFileSync(`${path}.ko`)
  const packed = [
    { end: '.ko.xz', program: 'xz' },
    { end: '.ko.zst', program: 'zstd' },
    { end: '.ko.gz', program: 'gzip' },
  ].find(({ end }) => existsSync(`${path}${end}`))
  if (packed === undefined) return undefined
  const { stdout, error } = spawnSync(packed.program, ['-dc', `${path}${packed.end}`], {
    maxBuffer: 64 << 20,
  })
  if (error !== undefined) throw error
  return stdout
}

/** An archive as the kernel unpacks it: cpio, "newc". */
class Archive {
  readonly #parts: Buffer[] = []
  #inode = 1

  folder(name: string): void {
    this.#entry(name, 0o040755, Buffer.alloc(0), [0, 0])
  }

  device(name: string, major: number, minor: number): void {
    this.#entry(name, 0o020600, Buffer.alloc(0), [major, minor])
  }

  file(name: string, bytes: Buffer): void {
    this.#entry(name, 0o100755, bytes, [0, 0])
  }

  bytes(): Buffer {
    this.#entry('TRAILER!!!', 0, Buffer.alloc(0), [0, 0])
    return Buffer.concat(this.#parts)
  }

  #entry(name: string, mode: number, bytes: Buffer, device: readonly [number, number]): void {
    const fields = [
      ...[this.#inode++, mode, 0, 0, 1, 0, bytes.length, 0, 0],
      ...[device[0], device[1], name.length + 1, 0],
    ]
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`
    for (const part of [Buffer.from(head, 'latin1'), bytes])
      this.#parts.push(part, Buffer.alloc((4 - (part.length % 4)) % 4))
  }
}
