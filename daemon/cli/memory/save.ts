// SPDX-License-Identifier: Apache-2.0
// `blockferry memory save`: receives the memory of a VM and stores it. With --qmp it drives the QEMU too, from the stop of the
// guest until it goes on.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { JsonValue } from '../../../protocol/json-value.js'
import { type Client, type CommandArguments, QmpError } from '../client.js'
import { connectTo } from '../connection.js'
import type { Daemon } from '../daemon.js'
import { usage } from '../status.js'
import { asObject, numberOf } from '../values.js'
import { type Afterwards, type MemoryFile, memoryFiles, saveQemu } from './qemu.js'
import { addressOf, placeOf, type TargetOptions, targetArguments } from './requests.js'
import { type RunOptions, runTransfer } from './transfer.js'

/** Between two looks whether all memory has been read, milliseconds. */
const POLL_MS = 5

export interface SaveOptions extends TargetOptions, RunOptions {
  readonly to: string
  readonly from?: string
  readonly connect: boolean
  readonly multifdChannels: number
  readonly qmp?: string
  readonly live: boolean
  readonly shared: boolean
  readonly afterwards: Afterwards
}

/** @param file  absent: what comes is read and thrown away, to measure */
export async function save(file: string | undefined, options: SaveOptions): Promise<void> {
  check(file, options)
  const args = {
    format: options.to,
    ...(file !== undefined && { target: placeOf(file) }),
    ...(await targetArguments(options)),
    'multifd-channels': options.multifdChannels,
  }
  const words = file === undefined ? 'read memory' : `saved memory to '${file}'`
  if (options.qmp !== undefined) return await saveDriven(options.qmp, args, words, options)
  const from = { source: addressOf(options.from ?? ''), connect: options.connect }
  await runTransfer({ command: 'x-memory-save', args: { ...args, ...from }, words, options })
}

function check(file: string | undefined, options: SaveOptions): void {
  const { from, qmp, to, connect, live, shared, afterwards, xml } = options
  if ((from === undefined) === (qmp === undefined))
    throw usage('give either --from, where a QEMU migrates to, or --qmp, to have it done')
  if ((file === undefined) !== (to === 'null')) throw usage("a file is expected, or '--to null' and none")
  if (qmp !== undefined && connect) throw usage('--connect goes with --from')
  if (from !== undefined && (live || !shared || afterwards !== 'continue'))
    throw usage('--live, --no-shared and --afterwards go with --qmp')
  if (to.startsWith('libvirt') && xml === undefined)
    throw usage(`a ${to} image needs the XML of its domain: --xml FILE`)
}

async function saveDriven(
  qmp: string,
  args: CommandArguments,
  words: string,
  options: SaveOptions,
): Promise<void> {
  const qemu = await connectTo(qmp, 'QEMU')
  // When the daemon is lost, the guest is still to go on and QEMU's settings to be put back.
  let driving: Promise<void> = Promise.resolve()
  const folder = await mkdtemp(join(tmpdir(), 'blockferry-'))
  try {
    const files = options.shared && !options.live ? await memoryFiles(qemu.client) : []
    const uri = `unix:${join(folder, 'memory.sock')}`
    const ram = files.map(({ id, path }) => ({ block: id, file: path }))
    await runTransfer({
      ...{ command: 'x-memory-save', words, options },
      args: { ...args, source: uri, ...(ram.length > 0 && { ram }) },
      beside: (daemon, job) => (over) => {
        driving = drive(qemu.client, daemon, job, { files, uri, options, over })
        return driving
      },
    })
  } finally {
    await driving.catch(() => undefined)
    await qemu.close()
    await rm(folder, { recursive: true, force: true })
  }
}

interface Drive {
  readonly files: readonly MemoryFile[]
  readonly uri: string
  readonly options: SaveOptions
  readonly over: AbortSignal
}

function drive(
  qemu: Client,
  daemon: Daemon,
  job: string,
  { files, uri, options, over }: Drive,
): Promise<void> {
  const { multifdChannels: channels, live, afterwards } = options
  return saveQemu(qemu, {
    ...{ uri, channels, live, afterwards, over },
    shared: files.length > 0,
    readAll: async () => {
      if (files.length > 0) await read(daemon, job, over)
    },
    durable: () => ended(over),
  })
}

/** Memory in files is read last: the guest must not go on before that. */
async function read({ client }: Daemon, job: string, over: AbortSignal): Promise<void> {
  while (!over.aborted) {
    const info = asObject(await infoOf(client, job))
    if (info === undefined) return
    if ((numberOf(asObject(info?.['x-phases']), 'flush-age-ms') ?? -1) >= 0) return
    await sleep(POLL_MS)
  }
}

/** Undefined: the job has ended, and is forgotten already. */
async function infoOf(client: Client, job: string): Promise<JsonValue | undefined> {
  try {
    return await client.execute('query-migrate', { 'x-job-id': job })
  } catch (error) {
    if (error instanceof QmpError) return undefined
    throw error
  }
}

function ended(over: AbortSignal): Promise<void> {
  if (over.aborted) return Promise.resolve()
  return new Promise((resolve) => over.addEventListener('abort', () => resolve(), { once: true }))
}
