// SPDX-License-Identifier: Apache-2.0
// Who copies: blockferryd, the blockferry command, and the tools users have today. Each copies an image onto a target and
// says what it cost. Time of a daemon counts from the mirror command to its completion, flush included; time of a
// command line counts from its start to its end.

import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { entryFile } from '../../daemon/common/entries.js'
import { Daemon } from '../helpers/daemon.js'
import { Probe } from '../helpers/probe.js'
import { blockferryd, installed, type Program, storageDaemon } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { makeQcow2, makeTarget } from './images.js'

export interface Cost {
  readonly seconds: number
  /** User and system time. */
  readonly cpuSeconds: number
  /** Bytes. */
  readonly peak: number
  /** Milliseconds; undefined for those that have no control socket. */
  readonly longestAnswer?: number
}

export type ImageFormat = 'raw' | 'qcow2'

export interface Copy {
  readonly source: string
  readonly target: string
  readonly size: number
  /** Default: raw. */
  readonly sourceFormat?: ImageFormat
  readonly targetFormat?: ImageFormat
  /** Scratch folder for sockets. */
  readonly directory: string
}

export interface Contender {
  readonly name: string
  copy(copy: Copy): Promise<Cost>
}

/** Node options as in the comparison users make: O_DIRECT and io_uring on both ends. */
export function fileNode(name: string, filename: string, driver: ImageFormat = 'raw'): object {
  const file = { driver: 'file', filename, aio: 'io_uring', cache: { direct: true } }
  return { driver, 'node-name': name, discard: 'unmap', file: { ...file, discard: 'unmap' } }
}

/** @returns seconds of the mirror itself */
export function mirror(client: QmpClient, copy: Copy): Promise<number> {
  return mirrorNodes(
    client,
    fileNode('source', copy.source, copy.sourceFormat),
    fileNode('target', copy.target, copy.targetFormat),
  )
}

/**
 * Both nodes added, the source mirrored, the nodes removed.
 * @param source  definition of a node `source`; the other of `target`
 * @returns seconds of the mirror itself
 */
export async function mirrorNodes(client: QmpClient, source: object, target: object): Promise<number> {
  await client.execute('blockdev-add', source)
  await client.execute('blockdev-add', target)
  const start = performance.now()
  const job = { 'job-id': 'copy', device: 'source', target: 'target', sync: 'full' }
  await client.execute('blockdev-mirror', job)
  await client.event('BLOCK_JOB_READY', () => true, 600_000)
  await client.execute('job-complete', { id: 'copy' })
  const end = await client.event('BLOCK_JOB_COMPLETED', () => true, 600_000)
  const seconds = (performance.now() - start) / 1000
  if (end.data.error !== undefined) throw new Error(`mirror: ${String(end.data.error)}`)
  await client.status('copy', 'null')
  for (const each of ['source', 'target']) await client.execute('blockdev-del', { 'node-name': each })
  return seconds
}

export function daemonContender(name: string, program: Program, env: NodeJS.ProcessEnv = {}): Contender {
  return {
    name,
    async copy(copy) {
      if (copy.targetFormat === 'qcow2') makeQcow2(copy.target, copy.size)
      else makeTarget(copy.target, copy.size)
      await using daemon = await Daemon.start({ directory: copy.directory, program, env })
      const { client } = daemon
      const probe = await Probe.start(`${daemon.socket}1`)
      const before = daemon.cpu()
      const seconds = await mirror(client, copy)
      const after = daemon.cpu()
      const { longest } = await probe.stop()
      const cpuSeconds = after.user + after.system - before.user - before.system
      return { seconds, cpuSeconds, peak: daemon.memory().peak, longestAnswer: longest }
    },
  }
}

/** A program that copies and ends. */
function commandContender(
  name: string,
  command: (copy: Copy) => string[],
  prepare: (copy: Copy) => void,
): Contender {
  return {
    name,
    async copy(copy) {
      prepare(copy)
      return await timed(command(copy))
    },
  }
}

/** What a program that ends costs. Runs under bash's `time`, which knows the CPU seconds of ended children. */
export async function timed(command: readonly string[]): Promise<Cost> {
  const script = 'TIMEFORMAT="cost %R %U %S"; time "$@"'
  const child = spawn('bash', ['-c', script, 'bash', ...command], { stdio: ['ignore', 'ignore', 'pipe'] })
  let text = ''
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  let peak = 0
  const watch = setInterval(() => {
    peak = Math.max(peak, peakOfChildren(child.pid ?? 0))
  }, 20)
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve))
  clearInterval(watch)
  const cost = /cost ([\d.]+) ([\d.]+) ([\d.]+)/.exec(text)
  if (status !== 0 || !cost) throw new Error(`${command.join(' ')}: ${text}`)
  return { seconds: Number(cost[1]), cpuSeconds: Number(cost[2]) + Number(cost[3]), peak }
}

function peakOfChildren(pid: number): number {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
    const peaks = children.map((child) => {
      const status = readFileSync(`/proc/${child}/status`, 'utf8')
      return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) * 1024
    })
    return Math.max(0, ...peaks)
  } catch {
    return 0
  }
}

const removeTarget = (copy: Copy): void => rmSync(copy.target, { force: true })

/** Everybody who is installed; ours first. `qemu10` names a Debian folder with the newer peer. */
export function contenders(qemu10: string | undefined): Contender[] {
  const all: Contender[] = [daemonContender('blockferryd', blockferryd)]
  all.push(
    commandContender(
      'blockferry mirror',
      (copy) => [
        process.execPath,
        entryFile('blockferry'),
        'mirror',
        '--direct',
        ...formats(copy),
        copy.source,
        copy.target,
      ],
      removeTarget,
    ),
  )
  if (qemu10 !== undefined || installed('qemu-storage-daemon')) {
    const root = qemu10 ?? ''
    all.push(
      daemonContender(`qemu-storage-daemon ${version(root, 'qemu-storage-daemon')}`, storageDaemon(qemu10)),
    )
  }
  if (installed('qemu-img')) {
    all.push(
      commandContender(
        `qemu-img convert ${version('', 'qemu-img')}`,
        (copy) => [
          'qemu-img',
          'convert',
          ...formats(copy),
          '-t',
          'none',
          '-T',
          'none',
          '-W',
          '-m',
          '16',
          copy.source,
          copy.target,
        ],
        removeTarget,
      ),
    )
  }
  if (installed('dd')) {
    all.push(
      commandContender(
        'dd',
        ({ source, target }) => [
          ...[
            'dd',
            `if=${source}`,
            `of=${target}`,
            'bs=1M',
            'iflag=direct',
            'oflag=direct',
            'conv=sparse,fsync',
          ],
          'status=none',
        ],
        removeTarget,
      ),
    )
  }
  return all
}

function formats({ sourceFormat = 'raw', targetFormat = 'raw' }: Copy): string[] {
  return ['-f', sourceFormat, '-O', targetFormat]
}

function version(root: string, program: string): string {
  const { stdout } = spawnSync(`${root}/usr/bin/${program}`, ['--version'], { encoding: 'utf8' })
  const own = /version (\d[\d.]*)/.exec(stdout ?? '')?.[1]
  if (own !== undefined) return own
  const inside = spawnSync('chroot', [root === '' ? '/' : root, program, '--version'], { encoding: 'utf8' })
  return /version (\d[\d.]*)/.exec(inside.stdout ?? '')?.[1] ?? ''
}
