// SPDX-License-Identifier: Apache-2.0
// Which host clusters hold tables, so that data is never written over them, whatever a damaged image says. Built before
// the first change of an image; kept up by whoever moves tables.

import { ClusterKinds } from './cluster-kinds.js'

export const ACTIVE_L2 = 'active L2 table'
export const INACTIVE_L2 = 'inactive L2 table'

/** Their place in the list, from 1, is what is kept for a cluster. */
const names = [
  ...['qcow2_header', 'active L1 table', ACTIVE_L2, 'snapshot table', 'inactive L1 table'],
  ...['bitmap directory', 'bitmap table', 'refcount table', 'refcount block'],
] as const
export type TableName = (typeof names)[number]
/** Added where an L2 table of a snapshot lies, which may be the active table's too. */
const OF_SNAPSHOT = 128

export class TableClusters {
  readonly #clusterSize: number
  readonly #kinds = new ClusterKinds()

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize
  }

  /** @param offset  host offset, bytes */
  add(offset: number, length: number, name: TableName): void {
    const kind = names.indexOf(name) + 1
    for (const index of this.#indices(offset, length))
      this.#kinds.set(index, kind + (this.#kinds.get(index) & OF_SNAPSHOT))
  }

  /**
   * Adds a table where none may be yet.
   * @returns the name of one that is there; nothing was added then
   */
  claim(offset: number, length: number, name: TableName): string | undefined {
    const found = this.find(offset, length)
    if (found === undefined) this.add(offset, length, name)
    return found
  }

  /**
   * Adds an L2 table of a snapshot. It stays one, whatever becomes of the active table in its place.
   * @returns the name of another table that is there; nothing was added then
   */
  claimOfSnapshot(offset: number, length: number): string | undefined {
    for (const index of this.#indices(offset, length)) {
      const kind = this.#kinds.get(index)
      const name = names[(kind & ~OF_SNAPSHOT) - 1]
      if (name !== undefined && name !== ACTIVE_L2) return name
      this.#kinds.set(index, kind | OF_SNAPSHOT)
    }
    return undefined
  }

  isOfSnapshot(offset: number): boolean {
    return (this.#kinds.get(Math.floor(offset / this.#clusterSize)) & OF_SNAPSHOT) !== 0
  }

  delete(offset: number, length: number): void {
    for (const index of this.#indices(offset, length))
      this.#kinds.set(index, this.#kinds.get(index) & OF_SNAPSHOT)
  }

  clear(): void {
    this.#kinds.clear()
  }

  /** Name of a table that a host range would overwrite. */
  find(offset: number, length: number): string | undefined {
    if (this.#kinds.size === 0) return undefined
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) {
      const kind = this.#kinds.get(index)
      if (kind !== 0) return names[(kind & ~OF_SNAPSHOT) - 1] ?? INACTIVE_L2
    }
    return undefined
  }

  *#indices(offset: number, length: number): Generator<number> {
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) yield index
  }
}
