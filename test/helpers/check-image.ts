// SPDX-License-Identifier: Apache-2.0
// Checks image files of tests: with this project's checker, and with qemu-img as the oracle.

import { spawn, spawnSync } from 'node:child_process'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'
import { checkQcow2 } from '../../daemon/iothread/block/drivers/qcow2/check/check.js'
import type { Repair } from '../../daemon/iothread/block/drivers/qcow2/check/image.js'
import { Buffers } from '../../daemon/iothread/copy/buffers.js'
import type { CheckResult } from '../../daemon/iothread/messages.js'
import { testGraph } from './graph.js'

export type Checker = (filename: string, repair?: Repair) => Promise<CheckResult>

/** A checker over one real engine, for the length of a test. */
export function checker(t: Test): Checker {
  const g = testGraph(t)
  const slots = new Buffers(g.engine)
  let count = 0
  return async (filename, repair = 'none') => {
    const name = `image${count++}`
    const readOnly = repair === 'none'
    const node = await g.add({ driver: 'file', 'node-name': name, filename, 'read-only': readOnly })
    try {
      const io = { node, engine: g.engine, slots, pausePoint: async () => undefined }
      return await checkQcow2(io, repair, { done: 0, total: 1 })
    } finally {
      await g.graph.remove(name)
    }
  }
}

export function qemuImg(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync('qemu-img', args, { encoding: 'utf8' })
}

/** Runs one that must succeed. @returns what it says */
export function mustQemuImg(...args: string[]): string {
  const { status, stdout, stderr } = qemuImg(...args)
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** Data by `qemu-io` commands. */
export function qemuIo(filename: string, ...commands: string[]): void {
  const args = commands.flatMap((command) => ['-c', command])
  const { status, stdout, stderr } = spawnSync('qemu-io', ['-f', 'qcow2', ...args, filename], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`qemu-io ${commands.join('; ')}: ${stderr}${stdout}`)
}

/** The counters of `qemu-img check`, in our names, and its lines. */
export function oracle(filename: string, ...more: string[]): Omit<CheckResult, 'linesLeftOut'> {
  return counted(qemuImg(...asking(filename), ...more))
}

/** The same without holding up what runs beside it. */
export async function oracleBeside(filename: string): Promise<Omit<CheckResult, 'linesLeftOut'>> {
  const child = spawn('qemu-img', asking(filename))
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  return counted({ stdout, stderr })
}

function asking(filename: string): string[] {
  return ['check', '-f', 'qcow2', '--output=json', filename]
}

function counted({ stdout, stderr }: { readonly stdout: string; readonly stderr: string }) {
  if (stdout === '') throw new Error(stderr)
  const counters: Record<string, number> = JSON.parse(stdout)
  const of = (name: string) => counters[name] ?? 0
  return {
    checkErrors: of('check-errors'),
    corruptions: of('corruptions'),
    leaks: of('leaks'),
    corruptionsFixed: of('corruptions-fixed'),
    leaksFixed: of('leaks-fixed'),
    totalClusters: of('total-clusters'),
    allocatedClusters: of('allocated-clusters'),
    fragmentedClusters: of('fragmented-clusters'),
    compressedClusters: of('compressed-clusters'),
    imageEndOffset: of('image-end-offset'),
    lines: stderr.split('\n').filter((line) => line !== ''),
  }
}

/** What both must agree on. */
export function comparable({ linesLeftOut: _, ...rest }: CheckResult): Omit<CheckResult, 'linesLeftOut'> {
  return rest
}
