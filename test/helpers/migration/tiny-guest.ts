// SPDX-License-Identifier: Apache-2.0
// The tiny guest as live tests need it: one that has ticked, one that waits to be restored, and whether it went on.

import { closeSync, constants, openSync } from 'node:fs'
import type { Scratch } from '../scratch.js'
import { Guest } from './guest.js'
import { type QemuVersion, qemuSystem } from './qemu-system.js'
import { wrongTick } from './ticks.js'

export const qemu = { '7.2': qemuSystem('7.2'), '10': qemuSystem('10') }

/** It has ticked and runs; to be ended by the caller. */
export async function ticking(
  scratch: Scratch,
  version: QemuVersion,
  machine: string,
  args: readonly string[] = [],
): Promise<Guest> {
  const name = 'source'
  const guest = await Guest.start({ qemu: qemu[version], folder: scratch.path, name, machine, args })
  try {
    await guest.tickBeyond(2)
    return guest
  } catch (error) {
    await guest.kill()
    throw error
  }
}

/** The same, stopped. */
export async function stopped(...of: Parameters<typeof ticking>): Promise<Guest> {
  const guest = await ticking(...of)
  await guest.stop()
  return guest
}

export async function waiting(
  scratch: Scratch,
  version: QemuVersion,
  machine: string,
  args: readonly string[] = [],
): Promise<Guest> {
  const name = 'destination'
  return await Guest.start({ qemu: qemu[version], folder: scratch.path, name, machine, args, incoming: true })
}

/** The guest's memory is a file. */
export function inFile(path: string): readonly string[] {
  return ['-object', `memory-backend-file,id=mem0,size=16M,mem-path=${path},share=on`]
}

/** Lets a restored guest run. @returns what is wrong with how it goes on after `before` */
export async function goesOn(guest: Guest, before: string): Promise<string | undefined> {
  if ((await guest.status()) === 'paused') await guest.cont()
  const { n } = await guest.tickBeyond(0)
  await guest.tickBeyond(n + 2)
  return wrongTick(before + guest.serial())
}

/** Why files of a folder cannot be opened past the page cache, or false. */
export function directAbsent(file: string): string | false {
  try {
    closeSync(openSync(file, constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT))
    return false
  } catch {
    return 'no O_DIRECT here'
  }
}
