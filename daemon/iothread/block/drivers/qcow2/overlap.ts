// SPDX-License-Identifier: Apache-2.0
// Which host clusters hold tables, so that data is never written over them, whatever a damaged image says. Built before
// the first change of an image; kept up by whoever moves tables.

export const ACTIVE_L2 = 'active L2 table'
export const INACTIVE_L2 = 'inactive L2 table'

export class TableClusters {
  readonly #clusterSize: number
  /** Name of the table by cluster index. */
  readonly #names = new Map<number, string>()
  /** Clusters of L2 tables of snapshots, which may be the active table's too. */
  readonly #ofSnapshots = new Set<number>()

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize
  }

  /** @param offset  host offset, bytes */
  add(offset: number, length: number, name: string): void {
    for (const index of this.#indices(offset, length)) this.#names.set(index, name)
  }

  /**
   * Adds a table where none may be yet.
   * @returns the name of one that is there; nothing was added then
   */
  claim(offset: number, length: number, name: string): string | undefined {
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
      const name = this.#names.get(index)
      if (name !== undefined && name !== ACTIVE_L2) return name
      this.#ofSnapshots.add(index)
    }
    return undefined
  }

  isOfSnapshot(offset: number): boolean {
    return this.#ofSnapshots.has(Math.floor(offset / this.#clusterSize))
  }

  delete(offset: number, length: number): void {
    for (const index of this.#indices(offset, length)) this.#names.delete(index)
  }

  clear(): void {
    this.#names.clear()
    this.#ofSnapshots.clear()
  }

  /** Name of a table that a host range would overwrite. */
  find(offset: number, length: number): string | undefined {
    if (this.#names.size === 0) return undefined
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) {
      const name = this.#names.get(index)
      if (name !== undefined) return name
      if (this.#ofSnapshots.has(index)) return INACTIVE_L2
    }
    return undefined
  }

  *#indices(offset: number, length: number): Generator<number> {
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) yield index
  }
}
