// SPDX-License-Identifier: Apache-2.0
// Which host clusters hold tables, so that data is never written over them, whatever a damaged image says. Built before
// the first change of an image; kept up by whoever moves tables.

export class TableClusters {
  readonly #clusterSize: number
  /** Name of the table by cluster index. */
  readonly #names = new Map<number, string>()

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

  delete(offset: number, length: number): void {
    for (const index of this.#indices(offset, length)) this.#names.delete(index)
  }

  clear(): void {
    this.#names.clear()
  }

  /** Name of a table that a host range would overwrite. */
  find(offset: number, length: number): string | undefined {
    if (this.#names.size === 0) return undefined
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) {
      const name = this.#names.get(index)
      if (name !== undefined) return name
    }
    return undefined
  }

  *#indices(offset: number, length: number): Generator<number> {
    const end = Math.ceil((offset + length) / this.#clusterSize)
    for (let index = Math.floor(offset / this.#clusterSize); index < end; index++) yield index
  }
}
