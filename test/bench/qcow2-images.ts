// SPDX-License-Identifier: Apache-2.0
// The qcow2 images the bench works on: the same guest content, its clusters written in four orders, so that what is
// contiguous for the guest is scattered in the file; and a large one that is mostly empty. Written by QEMU's own tool.

import { randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs'
import { generator, makeQcow2, runTool } from './images.js'

const MiB = 2 ** 20
const CLUSTER = 65536
const SEED = 21

/** Orders of writing, as in the public benchmark. */
export const orders = ['seq', 'reverse', 'rand', 'part-rand'] as const
export type Order = (typeof orders)[number]

/** A full image of `size` bytes, written by requests of one cluster in the given order. */
export function makeOrdered(path: string, size: number, order: Order): void {
  makeQcow2(path, size)
  const lines = ordered(Math.floor(size / CLUSTER), order).map(
    (cluster) => `write -q -P ${1 + (cluster % 255)} ${cluster * CLUSTER} ${CLUSTER}\n`,
  )
  runTool('qemu-io', ['-t', 'unsafe', '-f', 'qcow2', path], lines.join(''))
}

/** Numbers from 0 on in the order in which clusters are written. */
export function ordered(count: number, order: Order): number[] {
  const numbers = Array.from({ length: count }, (_, index) => index)
  const random = generator(SEED)
  switch (order) {
    case 'seq':
      return numbers
    case 'reverse':
      return numbers.reverse()
    case 'rand':
      return shuffled(numbers, random)
    case 'part-rand': {
      const perPart = MiB / CLUSTER
      const parts = Array.from({ length: Math.ceil(count / perPart) }, (_, part) =>
        shuffled(numbers.slice(part * perPart, (part + 1) * perPart), random),
      )
      return parts.flat()
    }
    default:
      return order satisfies never
  }
}

function shuffled(list: readonly number[], random: () => number): number[] {
  const mixed = [...list]
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    const [one, two] = [mixed[last] ?? 0, mixed[other] ?? 0]
    mixed[last] = two
    mixed[other] = one
  }
  return mixed
}

/**
 * A raw file that compresses to about half: in each cluster random bytes and as many of a text.
 * No two MiB are equal.
 */
export function makeCompressible(path: string, size: number): void {
  const text = Buffer.from('the quick brown fox jumps over the lazy dog; '.repeat(CLUSTER / 90 + 1))
  const block = Buffer.alloc(16 * MiB)
  for (let at = 0; at < block.length; at += CLUSTER) {
    randomBytes(CLUSTER / 2).copy(block, at)
    text.copy(block, at + CLUSTER / 2, 0, CLUSTER / 2)
  }
  const file = openSync(path, 'w')
  for (let offset = 0; offset < size; offset += block.length) {
    for (let at = 0; at < block.length; at += MiB) block.writeDoubleLE(offset + at + 1, at)
    writeSync(file, block, 0, Math.min(block.length, size - offset), offset)
  }
  fsyncSync(file)
  closeSync(file)
}

/**
 * A mostly empty image whose clusters lie in all of its L2 tables.
 * @param allocated  bytes of guest data
 */
export function makeSpread(path: string, size: number, allocated: number): void {
  makeQcow2(path, size)
  const count = Math.floor(allocated / CLUSTER)
  const step = Math.floor(size / count / CLUSTER) * CLUSTER
  // One sector of each cluster: the tool fills up the rest without writing it.
  const lines = Array.from({ length: count }, (_, index) => `write -q -P 1 ${index * step} 512\n`)
  runTool('qemu-io', ['-t', 'unsafe', '-f', 'qcow2', path], lines.join(''))
}
