// SPDX-License-Identifier: Apache-2.0
// Drives a QEMU through one save over its own QMP socket: stops the guest, sets what the migration needs, migrates, lets the
// guest go on, and puts everything back, also when something failed.

import { setTimeout as sleep } from 'node:timers/promises'
import type { JsonObject, JsonValue } from '../../../protocol/json-value.js'
import { type Client, type CommandArguments, QmpError } from '../client.js'
import { failed } from '../status.js'
import { asObject, flagOf, objectsOf, textOf } from '../values.js'

/** Between two questions how far the migration is, milliseconds. */
const POLL_MS = 10
/** How long QEMU may take to see that its stream was read to the end, milliseconds. */
const OVER_MS = 5000
/** How long a cancelled migration may take to end, milliseconds. */
const CANCEL_MS = 10_000

/** Parameters that a save sets. */
const CHANGED = ['max-bandwidth', 'downtime-limit', 'multifd-channels', 'multifd-compression']

/** What is done with the guest when its memory is saved. */
export type Afterwards = 'continue' | 'stop' | 'quit'

export interface QemuSave {
  /** Where QEMU is to migrate to. */
  readonly uri: string
  /** Connections beside the first. */
  readonly channels: number
  /** The guest runs until QEMU stops it itself. */
  readonly live: boolean
  /** Memory in files is left out of the stream. */
  readonly shared: boolean
  readonly afterwards: Afterwards
  /** Answers when everything that the guest could still change has been read. */
  readonly readAll: () => Promise<void>
  /** Answers when the image is durable. */
  readonly durable: () => Promise<void>
  /** Aborted when nobody reads any more. */
  readonly over: AbortSignal
}

/** A block of guest memory that lies in a file. */
export interface MemoryFile {
  /** The backend's id, which is the block's name. */
  readonly id: string
  readonly path: string
}

/** Memory in files that QEMU shares with others; none when some of it is shared but in no file. */
export async function memoryFiles(qemu: Client): Promise<readonly MemoryFile[]> {
  const shared = objectsOf(await qemu.execute('query-memdev')).filter((one) => flagOf(one, 'share'))
  const files: MemoryFile[] = []
  for (const backend of shared) {
    const id = textOf(backend, 'id')
    if (id === undefined) return []
    const path = await property(qemu, `/objects/${id}`, 'mem-path')
    if (typeof path !== 'string') return []
    files.push({ id, path })
  }
  return files
}

/** @throws CliError when it failed; then the guest is as it was */
export async function saveQemu(qemu: Client, save: QemuSave): Promise<void> {
  const running = flagOf(asObject(await qemu.execute('query-status')), 'running')
  const before = await Settings.read(qemu)
  let saved = false
  try {
    if (running && !save.live) await qemu.execute('stop')
    await before.change(save)
    await qemu.execute('migrate', { uri: save.uri })
    await migrated(qemu, save.over)
    await save.readAll()
    if (save.afterwards === 'continue' && running) await goOn(qemu)
    await save.durable()
    saved = true
  } catch (error) {
    await cancelled(qemu)
    throw error instanceof QmpError ? failed(`QEMU: ${error.message}`, { cause: error }) : error
  } finally {
    if (saved && save.afterwards === 'quit') await qemu.execute('quit').catch(() => undefined)
    else {
      await before.putBack()
      if (running && !(saved && save.afterwards === 'stop')) await goOn(qemu)
    }
  }
}

/** Capabilities and parameters as they were. */
class Settings {
  readonly #qemu: Client
  readonly #capabilities: readonly JsonObject[]
  readonly #parameters: JsonObject
  #changed: readonly JsonObject[] = []

  constructor(qemu: Client, capabilities: readonly JsonObject[], parameters: JsonObject) {
    this.#qemu = qemu
    this.#capabilities = capabilities
    this.#parameters = parameters
  }

  static async read(qemu: Client): Promise<Settings> {
    const capabilities = objectsOf(await qemu.execute('query-migrate-capabilities'))
    const parameters = asObject(await qemu.execute('query-migrate-parameters')) ?? {}
    return new Settings(qemu, capabilities, parameters)
  }

  async change({ channels, shared }: QemuSave): Promise<void> {
    const wanted = (name: string | undefined) =>
      (name === 'multifd' && channels > 0) || (name === 'x-ignore-shared' && shared)
    const others = this.#capabilities.filter(
      (one) => wanted(textOf(one, 'capability')) !== flagOf(one, 'state'),
    )
    const capabilities = others.map((one) => ({ ...one, state: !flagOf(one, 'state') }))
    await this.#qemu.execute('migrate-set-capabilities', { capabilities })
    this.#changed = others
    await this.#qemu.execute('migrate-set-parameters', {
      'max-bandwidth': 0,
      'downtime-limit': 1,
      ...(channels > 0 && { 'multifd-channels': channels, 'multifd-compression': 'none' }),
    })
  }

  /** Best effort: a QEMU that is gone has nothing to put back. */
  async putBack(): Promise<void> {
    const parameters: CommandArguments = Object.fromEntries(
      CHANGED.map((name) => [name, this.#parameters[name]]),
    )
    await this.#qemu.execute('migrate-set-parameters', parameters).catch(() => undefined)
    const capabilities = this.#changed
    await this.#qemu.execute('migrate-set-capabilities', { capabilities }).catch(() => undefined)
  }
}

async function migrated(qemu: Client, over: AbortSignal): Promise<void> {
  for (let left = OVER_MS; left > 0; left -= over.aborted ? POLL_MS : 0) {
    const info = asObject(await qemu.execute('query-migrate'))
    const status = textOf(info, 'status')
    if (status === 'completed') return
    if (status === 'failed' || status === 'cancelled') {
      const reason = textOf(info, 'error-desc')
      throw failed(`QEMU's migration ${status}${reason === undefined ? '' : `: ${reason}`}${hint(reason)}`)
    }
    await sleep(POLL_MS)
  }
  throw failed('nobody reads what QEMU sends')
}

/** The socket it is sent to lies in a folder for temporary files, for its owner only. */
function hint(reason: string | undefined): string {
  return reason?.includes('Failed to connect') === true
    ? '; QEMU runs as another user or sees other folders: set TMPDIR to one that both see, or use --from'
    : ''
}

/** No migration runs any more. Best effort. */
async function cancelled(qemu: Client): Promise<void> {
  const until = performance.now() + CANCEL_MS
  await qemu.execute('migrate_cancel').catch(() => undefined)
  while (performance.now() < until) {
    const info = asObject(await qemu.execute('query-migrate').catch(() => undefined))
    const status = textOf(info, 'status')
    if (status === undefined || ['none', 'completed', 'failed', 'cancelled'].includes(status)) return
    await sleep(POLL_MS)
  }
}

/** Best effort where it runs already. */
async function goOn(qemu: Client): Promise<void> {
  await qemu.execute('cont').catch(() => undefined)
}

async function property(qemu: Client, path: string, name: string): Promise<JsonValue | undefined> {
  try {
    return await qemu.execute('qom-get', { path, property: name })
  } catch (error) {
    if (error instanceof QmpError) return undefined
    throw error
  }
}
