// SPDX-License-Identifier: Apache-2.0
// The pid file: one daemon per file, kept by a lock that ends with the process however it ends. Used at start-up and end.
// Rules: the file appears with its content, and already locked; who replaces a stale one holds that one's lock meanwhile.

import { linkSync, lstatSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { createEngine } from '../native/engine.js'
import type { FileId, IoEngine } from '../native/types.js'
import { EEXIST, ENOENT, errnoText } from './common/errno.js'
import { StartError } from './start-error.js'

export interface PidFile {
  /** Removes the file if it is still the one written here. */
  remove(): void
}

/**
 * Locks and writes the pid file. The engine made here holds the descriptors, and with them the locks, until the process
 * ends. Throws StartError with the reference daemon's texts.
 */
export async function writePidFile(path: string): Promise<PidFile> {
  const engine = createEngine({ aio: 'threads', maxSlots: 1 })
  const stale = await lockStale(engine, path)
  const draft = `${path}.${process.pid}`
  const file = await engine.open(draft, { write: true, create: true, truncate: true })
  if (file < 0)
    throw new StartError(`cannot create PID file: Could not create '${path}': ${errnoText(-file)}`)
  try {
    writeFileSync(draft, `${process.pid}\n`)
    const inode = await lock(engine, file)
    if (stale) renameSync(draft, path)
    else if (!linked(draft, path)) return await writePidFile(path)
    return { remove: () => removeOwn(path, inode) }
  } finally {
    if (lstatSync(draft, { throwIfNoEntry: false })) unlinkSync(draft)
  }
}

/** Locks the file a dead daemon left. Returns whether there is one; throws while its daemon lives. */
async function lockStale(engine: IoEngine, path: string): Promise<boolean> {
  for (;;) {
    const file = await engine.open(path, { write: true })
    if (file === -ENOENT) return false
    if (file < 0) throw refused('open', file)
    const inode = await lock(engine, file)
    // A daemon that was ending may have removed the file between our open and our lock: then look again.
    if (inodeOf(path) === inode) return true
    await engine.close(file)
  }
}

/** Returns the inode of what was locked. */
async function lock(engine: IoEngine, file: FileId): Promise<string> {
  const locked = await engine.lock(file, 'write', 0, 0)
  if (locked < 0) throw refused('lock', locked)
  const facts = await engine.stat(file)
  if (typeof facts === 'number') throw refused('stat', facts)
  return facts.inode
}

/** Gives `draft` its name; false when another daemon was quicker. */
function linked(draft: string, path: string): boolean {
  try {
    linkSync(draft, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).errno === -EEXIST) return false
    throw error
  }
}

function removeOwn(path: string, inode: string): void {
  if (inodeOf(path) === inode) unlinkSync(path)
}

function inodeOf(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false, bigint: true })?.ino.toString()
}

function refused(what: string, result: number): StartError {
  return new StartError(`cannot create PID file: Cannot ${what} pid file: ${errnoText(-result)}`)
}
