// SPDX-License-Identifier: Apache-2.0
// The file of a Unix socket that a killed process left: removed when nobody listens at it any more. Used by listeners.

import { basename } from 'node:path'
import { ENXIO } from '../common/errno.js'
import type { Slots } from './slots.js'

/** See proc_net_unix(5): of the flags, the one of sockets that listen. */
const LISTENS = 0x10000
const LIST = '/proc/net/unix'

/**
 * The kernel's list is asked, not the socket: a QEMU that waits for its migration takes the first connection for it.
 * @returns whether the file was removed
 */
export async function removeStaleSocket(slots: Slots, path: string): Promise<boolean> {
  const { engine } = slots
  const file = await engine.open(path, { write: false })
  if (file >= 0) await engine.close(file)
  // Only sockets say so.
  if (file !== -ENXIO) return false
  const list = await readAll(slots, LIST)
  if (list === undefined || isListenedAt(list, path)) return false
  return (await engine.unlink(path)) === 0
}

/** @param list  text of /proc/net/unix; names stand there as they were bound */
export function isListenedAt(list: string, path: string): boolean {
  return list.split('\n').some((line) => {
    const [, , , flags = '', , , , ...words] = line.trim().split(/ +/)
    const bound = words.join(' ')
    const same =
      bound === path || (bound !== '' && !/^[/@]/.test(bound) && basename(bound) === basename(path))
    return same && (Number.parseInt(flags, 16) & LISTENS) !== 0
  })
}

async function readAll(slots: Slots, path: string): Promise<string | undefined> {
  const { engine } = slots
  const file = await engine.open(path, { write: false })
  if (file < 0) return undefined
  const slot = await slots.take('gather')
  const decoder = new TextDecoder()
  let text = ''
  try {
    for (let at = 0; ; ) {
      const result = await engine.read(file, at, slots.size, slot, 0)
      if (result < 0) return undefined
      if (result === 0) return text + decoder.decode()
      text += decoder.decode(slots.bytes(slot).subarray(0, result), { stream: true })
      at += result
    }
  } finally {
    slots.give(slot)
    await engine.close(file)
  }
}
