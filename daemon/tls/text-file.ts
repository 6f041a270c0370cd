// SPDX-License-Identifier: Apache-2.0
// Small files of text, such as certificates. They are read by an engine, not by Node, whose few threads all share: storage
// that does not answer holds up only who needs the file.

import type { FileId, IoEngine } from '../../native/types.js'
import { ENOENT, errnoText } from '../common/errno.js'
import { CommandError } from '../errors.js'

/** @param what  the file holds, for errors. @throws CommandError */
export async function textOf(engine: IoEngine, path: string, what = ''): Promise<string> {
  const text = await textIfThere(engine, path, what)
  if (text === undefined) throw noAccess(path, what, errnoText(ENOENT))
  return text
}

/** @returns undefined where there is no such file. @throws CommandError */
export async function textIfThere(engine: IoEngine, path: string, what = ''): Promise<string | undefined> {
  const file = await engine.open(path, { write: false })
  if (file === -ENOENT) return undefined
  if (file < 0) throw noAccess(path, what, errnoText(-file))
  try {
    return await contents(engine, file, path, what)
  } finally {
    await engine.close(file)
  }
}

/** Of a file that is shorter than a slot of the engine. */
async function contents(engine: IoEngine, file: FileId, path: string, what: string): Promise<string> {
  const facts = await engine.stat(file)
  if (typeof facts === 'number') throw noAccess(path, what, errnoText(-facts))
  if (facts.kind !== 'file') throw noAccess(path, what, 'it is not a regular file')
  const slots = engine.takeSlots(1)
  const [slot] = slots
  if (slot === undefined) throw noAccess(path, what, 'no free buffer')
  try {
    const got = await engine.read(file, 0, engine.slotSize, slot, 0)
    if (got < 0) throw noAccess(path, what, errnoText(-got))
    if (got === engine.slotSize) throw noAccess(path, what, 'it is too long')
    return Buffer.from(engine.slotBytes(slot).subarray(0, got)).toString('utf8')
  } finally {
    engine.giveSlots(slots)
  }
}

function noAccess(path: string, what: string, why: string): CommandError {
  return new CommandError(`Unable to access ${what}${path}: ${why}`)
}
