// SPDX-License-Identifier: Apache-2.0
// Descriptors that clients handed over: under names, which belong to one session and end with it, and in sets, which
// belong to the daemon. Numbers only. One in the daemon: the control plane's.
// Rules: each number has one owner who closes it, here or where it was moved to; a set lives while it has a descriptor
// or a user. Closing never waits.

import { type Access, accessOf, closeDescriptor, duplicate, referenceTo } from '../../native/descriptors.js'
import { errnoText } from '../common/errno.js'
import { CommandError } from '../errors.js'
import type { NodeFiles } from '../iothread/messages.js'
import type { SessionInfo } from './commands.js'

const SET_PREFIX = '/dev/fdset/'
const MAX_ID = 2 ** 31 - 1
/** O_ACCMODE, and what its values allow. */
const ACCESS_BITS = 3
const accesses: readonly Access[] = ['read', 'write', 'both']

interface Member {
  readonly fd: number
  readonly access: Access | undefined
  readonly opaque: string | undefined
}

interface DescriptorSet {
  readonly id: number
  /** Oldest first. */
  members: Member[]
  users: number
}

export interface SetInfo {
  readonly id: number
  readonly members: readonly { readonly fd: number; readonly opaque: string | undefined }[]
}

/**
 * The number in a file name of the form `/dev/fdset/N`; undefined for every other name.
 * @throws CommandError for a set whose number cannot be read
 */
export function setOf(filename: string): number | undefined {
  if (!filename.startsWith(SET_PREFIX)) return undefined
  const digits = filename.slice(SET_PREFIX.length)
  const id = /^\d+$/.test(digits) ? Number(digits) : MAX_ID + 1
  if (id > MAX_ID) throw new CommandError(`Could not parse fdset ${filename}`)
  return id
}

export class Descriptors {
  /** By session, then by name. */
  readonly #named = new Map<number, Map<string, number>>()
  readonly #sets = new Map<number, DescriptorSet>()

  /** Keeps a descriptor under a name; one that had the name is closed. */
  keep(session: SessionInfo, name: string, fd: number): void {
    const names = this.#named.get(session.id) ?? new Map<string, number>()
    this.#named.set(session.id, names)
    const before = names.get(name)
    if (before !== undefined) closeDescriptor(before)
    names.set(name, fd)
  }

  /**
   * A named descriptor, which is the caller's from then on; the name is free again.
   * @throws CommandError when the session has none of that name
   */
  take(session: SessionInfo, name: string): number {
    const fd = this.#remove(session, name)
    if (fd === undefined) throw new CommandError(`File descriptor named '${name}' has not been found`)
    return fd
  }

  /** @throws CommandError when the session has none of that name */
  closeNamed(session: SessionInfo, name: string): void {
    const fd = this.#remove(session, name)
    if (fd === undefined) throw notFound(name)
    closeDescriptor(fd)
  }

  /** The session is over: its names are. */
  forget(session: SessionInfo): void {
    for (const fd of this.#named.get(session.id)?.values() ?? []) closeDescriptor(fd)
    this.#named.delete(session.id)
  }

  /**
   * Puts a descriptor into a set.
   * @param id  undefined: a new set with the lowest free number
   * @returns the number of the set
   */
  add(fd: number, id: number | undefined, opaque: string | undefined): number {
    const number = id ?? this.#freeId()
    const set = this.#sets.get(number) ?? { id: number, members: [], users: 0 }
    this.#sets.set(number, set)
    set.members.push({ fd, access: accessOf(fd), opaque })
    return number
  }

  /**
   * Closes descriptors of a set. What was opened through it stays open.
   * @param fd  undefined: all of them
   * @throws CommandError when there is no such set, or no such descriptor in it
   */
  remove(id: number, fd: number | undefined): void {
    const name = fd === undefined ? `fdset-id:${id}` : `fdset-id:${id}, fd:${fd}`
    const set = this.#sets.get(id)
    if (set === undefined) throw notFound(name)
    const gone = fd === undefined ? set.members : set.members.filter((member) => member.fd === fd)
    if (fd !== undefined && gone.length === 0) throw notFound(name)
    set.members = set.members.filter((member) => !gone.includes(member))
    for (const member of gone) closeDescriptor(member.fd)
    this.#tidy(set)
  }

  /** Highest number first. */
  list(): SetInfo[] {
    return [...this.#sets.values()].sort((a, b) => b.id - a.id)
  }

  /**
   * Keeps a set in use until release().
   * @throws CommandError when there is no such set
   */
  use(id: number): SetUse {
    const set = this.#sets.get(id)
    if (set === undefined) throw new CommandError(`Failed to find fdset ${SET_PREFIX}${id}`)
    set.users++
    return new SetUse(
      `${SET_PREFIX}${id}`,
      (access) => set.members.findLast((member) => member.access === access)?.fd,
      () => {
        set.users--
        this.#tidy(set)
      },
    )
  }

  #remove(session: SessionInfo, name: string): number | undefined {
    const names = this.#named.get(session.id)
    const fd = names?.get(name)
    names?.delete(name)
    return fd
  }

  #freeId(): number {
    let id = 0
    while (this.#sets.has(id)) id++
    return id
  }

  #tidy(set: DescriptorSet): void {
    if (set.members.length === 0 && set.users === 0) this.#sets.delete(set.id)
  }
}

/** One user of a set. What it found once it still finds when the set has lost it. */
export class SetUse {
  readonly #filename: string
  readonly #find: (access: Access) => number | undefined
  readonly #leave: () => void
  /** Descriptors of our own, without access, of the files found so far. */
  readonly #references = new Map<Access, number>()

  /** @param find  the youngest descriptor of the set with exactly this access */
  constructor(filename: string, find: (access: Access) => number | undefined, leave: () => void) {
    this.#filename = filename
    this.#find = find
    this.#leave = leave
  }

  /**
   * A duplicate of the descriptor whose access mode is that of `flags`; the caller's.
   * @param flags  as for open(2); the access mode decides alone, the others only stand in the error
   * @throws CommandError when the set has none with this access mode
   */
  duplicate(flags: number): number {
    const access = accesses[flags & ACCESS_BITS]
    const found = access && this.#find(access)
    if (found === undefined) throw noMatch(flags)
    return this.#checked(duplicate(found))
  }

  /** Names under which the engine of a worker opens the set's files, until release(). */
  files(): NodeFiles {
    const [read, both] = [this.#path('read'), this.#path('both')]
    return { ...(read !== undefined && { read }), ...(both !== undefined && { both }) }
  }

  release(): void {
    for (const reference of this.#references.values()) closeDescriptor(reference)
    this.#references.clear()
    this.#leave()
  }

  #path(access: Access): string | undefined {
    const reference = this.#references.get(access) ?? this.#refer(access)
    return reference === undefined ? undefined : `/proc/${process.pid}/fd/${reference}`
  }

  #refer(access: Access): number | undefined {
    const found = this.#find(access)
    if (found === undefined) return undefined
    const reference = this.#checked(referenceTo(found))
    this.#references.set(access, reference)
    return reference
  }

  #checked(result: number): number {
    if (result < 0) throw new CommandError(`Could not open '${this.#filename}': ${errnoText(-result)}`)
    return result
  }
}

/** The text of a set without a descriptor that fits. @param flags  as for open(2) */
export function noMatch(flags: number): CommandError {
  return new CommandError(`Failed to find file descriptor with matching flags=0x${flags.toString(16)}`)
}

function notFound(name: string): CommandError {
  return new CommandError(`File descriptor named '${name}' not found`)
}
