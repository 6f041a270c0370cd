// SPDX-License-Identifier: Apache-2.0
// The pid file: one daemon per file, kept by a lock that ends with the process however it ends. Used at start-up and end.

import { lstatSync, unlinkSync, writeFileSync } from 'node:fs'
import { createEngine } from '../native/engine.js'
import { errnoText } from './common/errno.js'
import { StartError } from './start-error.js'

export interface PidFile {
  /** Removes the file if it is still the one written here. */
  remove(): void
}

/**
 * Locks and writes the pid file. The engine made here holds the descriptor, and with it the lock, until the process ends.
 * Throws StartError with the reference daemon's texts.
 */
export async function writePidFile(path: string): Promise<PidFile> {
  const engine = createEngine({ aio: 'threads', maxSlots: 1 })
  for (;;) {
    const file = await engine.open(path, { write: true, create: true })
    if (file < 0)
      throw new StartError(`cannot create PID file: Could not create '${path}': ${errnoText(-file)}`)
    const locked = await engine.lock(file, 'write', 0, 0)
    if (locked < 0) throw refused('lock', locked)
    const facts = await engine.stat(file)
    if (typeof facts === 'number') throw refused('stat', facts)
    // A daemon that was ending may have removed the file between our open and our lock: then look again.
    const there = lstatSync(path, { throwIfNoEntry: false, bigint: true })
    if (String(there?.ino) === facts.inode) {
      writeFileSync(path, `${process.pid}\n`)
      return { remove: () => removeOwn(path, facts.inode) }
    }
    await engine.close(file)
  }
}

function removeOwn(path: string, inode: string): void {
  const there = lstatSync(path, { throwIfNoEntry: false, bigint: true })
  if (String(there?.ino) === inode) unlinkSync(path)
}

function refused(what: string, result: number): StartError {
  return new StartError(`cannot create PID file: Cannot ${what} pid file: ${errnoText(-result)}`)
}
