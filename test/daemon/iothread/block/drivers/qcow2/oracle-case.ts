// SPDX-License-Identifier: Apache-2.0
// What kind of image a random round works on: format options, backing file, data file, caches, engine. All of it
// follows from the seed. Images are made by qemu-img.

import { writeFileSync } from 'node:fs'
import type { NodeSpec } from '../../../../../../daemon/iothread/messages.js'
import type { EngineKind } from '../../../../../../native/types.js'
import { mustQemuImg } from '../../../../../helpers/check-image.js'
import { random, refused } from '../../../../../helpers/graph.js'

export type Random = (below: number) => number

const MiB = 2 ** 20

export interface Case {
  readonly seed: number
  readonly clusterBits: number
  /** As `qemu-img create -o` takes them, without the files. */
  readonly options: readonly string[]
  readonly version: 2 | 3
  readonly refcountBits: number
  readonly size: number
  readonly aio: EngineKind
  readonly direct: boolean
  readonly backing: { readonly format: 'raw' | 'qcow2'; readonly size: number } | undefined
  readonly dataFile: 'none' | 'plain' | 'raw'
  /** Internal snapshots are possible. */
  readonly snapshots: boolean
  /** Runtime options of the node. */
  readonly runtime: Readonly<Record<string, unknown>>
  readonly name: string
}

const ringRefused = refused('io_uring')

export function pickCase(seed: number): Case {
  const rnd = random(seed)
  const pick = <T>(...from: T[]): T => from[rnd(from.length)] as T
  const clusterBits = pick(9, 9, 10, 12, 12, 14, 16, 16, 18, 21)
  const extended = clusterBits >= 14 && rnd(3) === 0
  const version = !extended && rnd(4) === 0 ? 2 : 3
  const refcountBits = version === 2 ? 16 : pick(1, 2, 4, 8, 16, 32, 64)
  const dataFile = version === 3 && rnd(6) === 0 ? pick('plain', 'raw') : 'none'
  const options = [`cluster_size=${2 ** clusterBits}`, `compat=${version === 2 ? '0.10' : '1.1'}`]
  if (version === 3) options.push(`refcount_bits=${refcountBits}`)
  if (extended) options.push('extended_l2=on')
  if (version === 3 && dataFile === 'none') options.push(`compression_type=${pick('zlib', 'zstd')}`)
  const size = pick(1, 1, 2, 3, 5) * MiB + 512 * pick(0, 1, rnd(2000))
  const backed = dataFile !== 'raw' && rnd(2) === 0
  const backing = backed
    ? {
        format: pick('raw' as const, 'qcow2' as const),
        size: pick(size, Math.ceil(size / 1024) * 512, size + 700 * 512),
      }
    : undefined
  const aio = rnd(2) === 0 && ringRefused === false ? 'io_uring' : 'threads'
  const direct = rnd(4) === 0
  const runtime = pickRuntime(rnd, clusterBits)
  const words = [
    options.join(','),
    `${size} bytes`,
    backing === undefined ? '' : `${backing.format} backing of ${backing.size}`,
    dataFile === 'none' ? '' : `${dataFile} data file`,
    aio,
    direct ? 'direct' : '',
    JSON.stringify(runtime),
  ]
  const snapshots = refcountBits > 1 && dataFile === 'none' && rnd(2) === 0
  const name = `seed ${seed}: ${words.filter((word) => word !== '').join(', ')}`
  return {
    seed,
    clusterBits,
    options,
    version,
    refcountBits,
    size,
    aio,
    direct,
    backing,
    dataFile,
    snapshots,
    runtime,
    name,
  }
}

/** Caches of two slices as often as caches as they are. */
export function pickRuntime(rnd: Random, clusterBits: number): Record<string, unknown> {
  const runtime: Record<string, unknown> = {}
  if (rnd(2) === 0) {
    const entry = Math.min(2 ** clusterBits, [512, 512, 4096][rnd(3)] as number)
    Object.assign(runtime, { 'l2-cache-entry-size': entry, 'l2-cache-size': 2 * entry })
  }
  if (rnd(3) === 0) runtime['refcount-cache-size'] = 1024
  if (rnd(3) === 0) runtime['pass-discard-other'] = true
  if (rnd(3) === 0) runtime['x-tasks'] = 1 + rnd(8)
  return runtime
}

export interface CaseFiles {
  readonly image: string
  /** What the disk shows before the first change. */
  readonly content: Buffer
}

/** Makes the image, its backing file with content, and its data file, in a folder. */
export function makeFiles(c: Case, folder: string, rnd: Random): CaseFiles {
  const image = `${folder}/disk.qcow2`
  const content = Buffer.alloc(c.size)
  const options = [...c.options]
  if (c.backing !== undefined) {
    const bytes = patches(c.backing.size, rnd)
    writeFileSync(`${folder}/base.raw`, bytes)
    bytes.copy(content)
    if (c.backing.format === 'qcow2')
      mustQemuImg(
        'convert',
        '-O',
        'qcow2',
        '-o',
        'cluster_size=4k',
        `${folder}/base.raw`,
        `${folder}/base.qcow2`,
      )
    options.push(`backing_file=base.${c.backing.format}`, `backing_fmt=${c.backing.format}`)
  }
  if (c.dataFile !== 'none') options.push(`data_file=${folder}/disk.data`)
  if (c.dataFile === 'raw') options.push('data_file_raw=on')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options.join(','), image, String(c.size))
  return { image, content }
}

/** Bytes with data and holes. */
function patches(size: number, rnd: Random): Buffer {
  const bytes = Buffer.alloc(size)
  for (let at = 0; at < size; at += 4096)
    if (rnd(3) > 0) bytes.fill(1 + rnd(255), at, Math.min(size, at + 4096))
  return bytes
}

/** The image as a node 'disk', every child by definition. */
export function nodeSpec(c: Case, image: string, runtime: Case['runtime'] = c.runtime): NodeSpec {
  const folder = image.slice(0, image.lastIndexOf('/'))
  const file = (name: string, filename: string, more: object = {}) => ({
    driver: 'file',
    'node-name': name,
    filename: `${folder}/${filename}`,
    // What survives a power cut is not looked at here, and flushes are most of the time.
    cache: { direct: c.direct, 'no-flush': true },
    ...more,
  })
  const backing =
    c.backing === undefined
      ? null
      : {
          driver: c.backing.format,
          'node-name': 'base',
          'read-only': true,
          file: file('base-file', `base.${c.backing.format}`, { 'read-only': true }),
        }
  return {
    driver: 'qcow2',
    'node-name': 'disk',
    discard: 'unmap',
    file: file('disk-file', 'disk.qcow2', { discard: 'unmap' }),
    backing,
    ...(c.dataFile === 'none' ? {} : { 'data-file': file('disk-data', 'disk.data', { discard: 'unmap' }) }),
    ...runtime,
  }
}
