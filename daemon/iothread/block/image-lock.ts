// SPDX-License-Identifier: Apache-2.0
// Image locks: tells other programs, QEMU's tools above all, what we do with a file, and learns what they do. Used by
// the file driver and by image creation. The layout is QEMU's, so that both sides refuse each other's files:
//
//   byte 100 + bit   shared lock: I use this permission
//   byte 200 + bit   shared lock: I do not share this permission with others
//   bits             consistent read 0, write 1, write unchanged 2, resize 3
//
// Take the shared locks first, then look for a conflicting one of somebody else: of two programs that start at once
// both may be refused, but never both be let through. Locks belong to the open file description, so two nodes of
// this process on one file refuse each other as well.

import type { FileId, IoEngine } from '../../../native/types.js'
import { EINVAL, ENOLCK, ENOSYS, ENOTSUP } from '../../common/errno.js'
import { CommandError } from '../../errors.js'
import { PERMISSIONS, type Permissions } from './driver.js'

const USED = 100
const NOT_SHARED = 200

/** File systems without locks: not an obstacle unless locking was asked for. */
const unsupported = new Set([-EINVAL, -ENOLCK, -ENOSYS, -ENOTSUP])

/** The bytes to hold for these permissions. */
export function lockBytes(permissions: Permissions | undefined): Set<number> {
  const bytes = new Set<number>()
  if (permissions === undefined) return bytes
  for (const [bit, permission] of PERMISSIONS.entries()) {
    if (permissions.use.includes(permission)) bytes.add(USED + bit)
    if (!permissions.share.includes(permission)) bytes.add(NOT_SHARED + bit)
  }
  return bytes
}

/** The error of a lock that another program holds. @param path  of the file, which the text that managers know leaves out */
export function lockRefused(lock: string, path: string): CommandError {
  const hint = `Is another process using the image [${path}]?`
  return new CommandError(`Failed to get ${lock} lock`, 'GenericError', { hint })
}

export class ImageLock {
  readonly #engine: IoEngine
  readonly #file: FileId
  readonly #path: string
  /** Bytes held now. Changed by one apply() at a time: the graph orders claims on a leaf. */
  #held = new Set<number>()
  /** The file system has no locks. */
  #lost = false

  /** @param path  of the file, for errors */
  constructor(engine: IoEngine, file: FileId, path: string) {
    this.#engine = engine
    this.#file = file
    this.#path = path
  }

  /**
   * Holds exactly what the permissions want; undefined: nothing. On failure what was held before is held still.
   * @param required  fail where the file system has no locks
   * @throws CommandError naming the lock that somebody else's use forbids
   */
  async apply(permissions: Permissions | undefined, required: boolean): Promise<void> {
    if (this.#lost) return
    const wanted = lockBytes(permissions)
    const added: number[] = []
    try {
      for (const byte of wanted) {
        if (this.#held.has(byte)) continue
        const result = await this.#engine.lock(this.#file, 'read', byte, 1)
        if (unsupported.has(result) && !required) {
          this.#lost = true
          return
        }
        if (result < 0) throw new CommandError(`Failed to lock byte ${byte}`)
        added.push(byte)
        this.#held.add(byte)
      }
      if (permissions !== undefined) await this.#look(permissions)
    } catch (error) {
      await this.#drop(added)
      throw error
    }
    await this.#drop([...this.#held].filter((byte) => !wanted.has(byte)))
  }

  /** Holds what another handle of the same node holds, without looking: nobody can have come between. */
  async copyFrom(other: ImageLock): Promise<void> {
    for (const byte of other.#held) {
      const result = await this.#engine.lock(this.#file, 'read', byte, 1)
      if (result < 0) throw new CommandError(`Failed to lock byte ${byte}`)
      this.#held.add(byte)
    }
  }

  /** What we use must be shared by others, then: what we do not share must not be used by others. */
  async #look(permissions: Permissions): Promise<void> {
    for (const [bit, permission] of PERMISSIONS.entries()) {
      if (!permissions.use.includes(permission)) continue
      if (await this.#conflict(NOT_SHARED + bit)) throw lockRefused(`"${permission}"`, this.#path)
    }
    for (const [bit, permission] of PERMISSIONS.entries()) {
      if (permissions.share.includes(permission)) continue
      if (await this.#conflict(USED + bit)) throw lockRefused(`shared "${permission}"`, this.#path)
    }
  }

  /** A failing test counts as a conflict: better refused than two writers. */
  async #conflict(byte: number): Promise<boolean> {
    return (await this.#engine.lockedByOthers(this.#file, byte, 1)) !== 0
  }

  async #drop(bytes: readonly number[]): Promise<void> {
    for (const byte of bytes) {
      await this.#engine.lock(this.#file, 'unlock', byte, 1)
      this.#held.delete(byte)
    }
  }
}
