// SPDX-License-Identifier: Apache-2.0
// A running QEMU with a guest that needs no disk: started, steered over QMP, read on its serial line, saved and restored.
// Ended with the scope that holds it (`await using`), by its own process, whatever happened.

import { once } from 'node:events'
import { copyFileSync, readFileSync, rmSync, watch } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { buildFolder, type Running, start } from '../program.js'
import { QmpClient } from '../qmp-client.js'
import { deadline } from '../waiting.js'
import type { QemuSystem } from './qemu-system.js'
import { readTicks, type Tick } from './ticks.js'
import * as transfer from './transfer.js'

const fixtures = `${buildFolder}../test/fixtures/migration`
/** Says `TICK n bad=k` for ever; 16 MiB of memory are enough. */
export const TINY_GUEST = `${fixtures}/guest/guest.elf`
/** Fills its memory, says FILLED, and takes keys: see its README. */
export const BENCH_GUEST = `${fixtures}/bench-guest/bench-guest.elf`

export interface GuestOptions {
  readonly qemu: QemuSystem
  /**
   * Holds the guest's sockets and its serial log, and all files it is to write or read: it has the same path inside a
   * Debian folder. Short (a socket path has 107 bytes).
   */
  readonly folder: string
  /** Names its files in the folder. */
  readonly name: string
  /** Such as `pc-q35-7.2`, or with options: `pc-q35-10.0,memory-backend=mem0`. */
  readonly machine: string
  /** Of `-m`. */
  readonly memory?: string
  readonly kernel?: string
  /** Command line of the kernel. */
  readonly append?: string
  readonly args?: readonly string[]
  /** Waits for `load` instead of starting the kernel. */
  readonly incoming?: boolean
}

/** Each serves one client at a time: 'control' is this helper's, the others are for a probe and for a test's own client. */
const MONITORS = ['control', 'probe', 'other'] as const
export type Monitor = (typeof MONITORS)[number]

export class Guest {
  readonly options: GuestOptions
  readonly running: Running
  readonly qmp: QmpClient
  /** Rejects when QEMU ends. */
  readonly #exit: Promise<never>

  private constructor(options: GuestOptions, running: Running, qmp: QmpClient, exit: Promise<never>) {
    this.options = options
    this.running = running
    this.qmp = qmp
    this.#exit = exit
  }

  /** Started and answering. */
  static async start(options: GuestOptions): Promise<Guest> {
    for (const file of [...MONITORS.map(String), 'serial', 'log'])
      rmSync(fileOf(options, file), { force: true })
    const running = start(commandLine(options))
    const exit = once(running.child, 'exit').then((): never => {
      throw new Error(`${options.qemu.name} ended: ${running.stderr()}`)
    })
    // Also when nobody waits for anything.
    exit.catch(() => undefined)
    try {
      const qmp = await Promise.race([QmpClient.connect(fileOf(options, 'control'), 30_000), exit])
      return new Guest(options, running, qmp, exit)
    } catch (cause) {
      await kill(running)
      throw new Error(`${options.qemu.name} did not come up: ${running.stderr()}`, { cause })
    }
  }

  get pid(): number {
    return this.running.pid
  }

  /** Path of a monitor's socket. */
  monitor(which: Monitor): string {
    return fileOf(this.options, which)
  }

  async stop(): Promise<void> {
    await this.qmp.execute('stop')
  }

  async cont(): Promise<void> {
    await this.qmp.execute('cont')
  }

  /** Such as 'running', 'paused', 'inmigrate', 'postmigrate'. */
  async status(): Promise<string> {
    return await transfer.runState(this.qmp)
  }

  /** Migrates away and waits for the end, whatever it is. @throws QmpError when QEMU refuses to begin */
  async migrate(uri: string, how: transfer.How = {}): Promise<transfer.MigrationEnd> {
    return await this.#alive(transfer.migrate(this.qmp, uri, how))
  }

  /** Begins to take a migration: returns when QEMU listens or reads. For a guest that was started `incoming`. */
  async incoming(uri: string, how: transfer.How = {}): Promise<transfer.Incoming> {
    return await this.#alive(transfer.incoming(this.qmp, uri, how))
  }

  /** Takes a migration and waits for the end. The guest is then in the state it was saved in: paused if it was. */
  async load(uri: string, how: transfer.How = {}): Promise<transfer.LoadEnd> {
    const incoming = await this.incoming(uri, how)
    return await this.#alive(incoming.end())
  }

  /** All it has said on its serial line. */
  serial(): string {
    return readFileSync(fileOf(this.options, 'log'), 'latin1')
  }

  /** Waits until its serial output matches. */
  async says(pattern: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    return await this.#hears(() => pattern.exec(this.serial()), String(pattern), timeoutMs)
  }

  /** A key on its serial line. */
  async press(key: string): Promise<void> {
    const socket = connect(fileOf(this.options, 'serial'))
    await once(socket, 'connect')
    socket.resume().end(key)
    await once(socket, 'close')
  }

  /** The last whole tick of the tiny guest. */
  tick(): Tick | undefined {
    return readTicks(this.serial()).at(-1)
  }

  /** Waits for a tick whose number is larger. */
  async tickBeyond(n: number): Promise<Tick> {
    return await this.#hears(
      () => readTicks(this.serial()).findLast((tick) => tick.n > n),
      `a tick after ${n}`,
    )
  }

  /** Asks `found` now and after everything the guest says. */
  async #hears<T extends object>(
    found: () => T | null | undefined,
    what: string,
    timeoutMs = 60_000,
  ): Promise<T> {
    using clock = deadline(timeoutMs)
    const watcher = watch(fileOf(this.options, 'log'))
    try {
      for (;;) {
        const change = once(watcher, 'change')
        const answer = found()
        if (answer) return answer
        if (clock.over) throw new Error(`guest did not say ${what} but: ${this.serial().slice(-500)}`)
        await this.#alive(Promise.race([change, clock.end]))
      }
    } finally {
      watcher.close()
    }
  }

  async kill(): Promise<void> {
    this.qmp.close()
    await kill(this.running)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }

  /** Says how QEMU ended when that is why something failed. */
  async #alive<T>(work: Promise<T>): Promise<T> {
    try {
      return await Promise.race([work, this.#exit])
    } catch (cause) {
      if (!this.qmp.closed) throw cause
      const status = await this.running.ended(10_000)
      const name = `${this.options.name} (${this.options.qemu.name})`
      throw new Error(`${name} ended with ${status}: ${this.running.stderr()}`, { cause })
    }
  }
}

async function kill(running: Running): Promise<void> {
  running.child.kill('SIGKILL')
  await running.ended(30_000)
}

function fileOf({ folder, name }: GuestOptions, what: string): string {
  return join(folder, `${name}.${what}`)
}

function commandLine(options: GuestOptions): readonly [string, ...string[]] {
  const { qemu, folder, machine, memory = '16M', kernel = TINY_GUEST, append, args = [] } = options
  const image = fileOf(options, 'elf')
  copyFileSync(kernel, image)
  const serial = `socket,id=serial,path=${fileOf(options, 'serial')},server=on,wait=off`
  return [
    ...qemu.command(folder),
    ...['-nodefaults', '-display', 'none', '-net', 'none', '-accel', 'tcg', '-smp', '1'],
    ...['-machine', machine, '-m', memory, '-kernel', image],
    ...(append === undefined ? [] : ['-append', append]),
    // What it says is logged also while nobody is connected.
    ...['-chardev', `${serial},logfile=${fileOf(options, 'log')},logappend=off`, '-serial', 'chardev:serial'],
    ...MONITORS.flatMap((each) => ['-qmp', `unix:${fileOf(options, each)},server=on,wait=off`]),
    ...(options.incoming ? ['-incoming', 'defer'] : []),
    ...args,
  ]
}
