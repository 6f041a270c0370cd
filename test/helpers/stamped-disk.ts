// SPDX-License-Identifier: Apache-2.0
// A guest that can tell whether its disk lies: every block it writes says which block it is and which version of it, and
// what it reads must be a version that was there during the read. Any number of writers and readers at once.
// Used by tests of what moves a disk below its guest.

export const BLOCK = 4096

/** The guest's disk: whatever it is at the moment. */
export interface GuestDisk {
  read(offset: number, length: number): Promise<Uint8Array>
  write(offset: number, bytes: Uint8Array): Promise<void>
  zero(offset: number, length: number): Promise<void>
  flush(): Promise<void>
}

interface Block {
  /** Last version whose write was answered. */
  settled: number
  /** Last version whose write was asked for. */
  asked: number
  /** Versions that are zeroes; the first one is. */
  readonly zeroes: Set<number>
}

export class StampedDisk {
  readonly #disk: GuestDisk
  readonly #below: (below: number) => number
  readonly #refused: (error: unknown) => boolean
  readonly #blocks: Block[]
  readonly #busy = new Set<number>()
  #stopped = false
  /** Requests that were answered. */
  requests = 0

  /** @param refused  whether a write may fail so: its content may be there or not, then */
  constructor(
    disk: GuestDisk,
    blocks: number,
    below: (below: number) => number,
    refused: (error: unknown) => boolean = () => false,
  ) {
    this.#disk = disk
    this.#below = below
    this.#refused = refused
    this.#blocks = Array.from({ length: blocks }, () => ({ settled: 0, asked: 0, zeroes: new Set([0]) }))
  }

  /** Writers and readers until stop() is called. Rejects with the first lie. @param breathe  between requests */
  async run(writers: number, readers: number, breathe: () => Promise<unknown>): Promise<void> {
    this.#stopped = false
    const loop = async (step: () => Promise<void>) => {
      while (!this.#stopped) {
        await step()
        this.requests++
        await breathe()
      }
    }
    const all = [
      ...Array.from({ length: writers }, () => loop(() => this.#writeSome())),
      ...Array.from({ length: readers }, () => loop(() => this.#readSome())),
    ]
    try {
      await Promise.all(all)
    } finally {
      this.#stopped = true
    }
  }

  get stopped(): boolean {
    return this.#stopped
  }

  stop(): void {
    this.#stopped = true
  }

  /** Everything that was answered is there. Call it when nobody writes. @param disk  where to look */
  async verify(disk: Pick<GuestDisk, 'read'> = this.#disk): Promise<void> {
    for (let first = 0; first < this.#blocks.length; first += 64)
      await this.#read(first, Math.min(64, this.#blocks.length - first), disk)
  }

  /** The disk as it is at some moment between this call and the call of what it returns, which makes a check for copies. */
  moment(): () => (copy: Pick<GuestDisk, 'read'>) => Promise<void> {
    const least = this.#blocks.map(({ settled }) => settled)
    return () => {
      const most = this.#blocks.map(({ asked }) => asked)
      return async (copy) => {
        for (const [number, from] of least.entries()) {
          const bytes = Buffer.from(await copy.read(number * BLOCK, BLOCK))
          this.#check(number, from, most[number] ?? from, bytes)
        }
      }
    }
  }

  async #writeSome(): Promise<void> {
    const free = this.#claim()
    if (free === undefined) return
    const { first, count } = free
    try {
      if (this.#below(6) === 0) await this.#disk.flush()
      const blocks = this.#blocks.slice(first, first + count)
      const zero = this.#below(8) === 0
      for (const block of blocks) {
        block.asked++
        if (zero) block.zeroes.add(block.asked)
      }
      if (zero) await this.#disk.zero(first * BLOCK, count * BLOCK)
      else
        await this.#disk.write(
          first * BLOCK,
          Buffer.concat(blocks.map(({ asked }, index) => stamped(first + index, asked))),
        )
      for (const block of blocks) block.settled = block.asked
    } catch (error) {
      if (!this.#refused(error)) throw error
    } finally {
      for (let block = first; block < first + count; block++) this.#busy.delete(block)
    }
  }

  /** Some blocks that nobody else writes now: of two writes at once nobody knows which comes last. */
  #claim(): { first: number; count: number } | undefined {
    const first = this.#below(this.#blocks.length)
    const most = Math.min(1 + this.#below(this.#below(3) === 0 ? 48 : 2), this.#blocks.length - first)
    let count = 0
    while (count < most && !this.#busy.has(first + count)) this.#busy.add(first + count++)
    return count === 0 ? undefined : { first, count }
  }

  async #readSome(): Promise<void> {
    const first = this.#below(this.#blocks.length)
    await this.#read(first, Math.min(1 + this.#below(16), this.#blocks.length - first))
  }

  async #read(first: number, count: number, disk: Pick<GuestDisk, 'read'> = this.#disk): Promise<void> {
    const oldest = this.#blocks.slice(first, first + count).map(({ settled }) => settled)
    const bytes = await disk.read(first * BLOCK, count * BLOCK)
    for (const [index, least] of oldest.entries()) {
      const view = Buffer.from(bytes.subarray(index * BLOCK, (index + 1) * BLOCK))
      this.#check(first + index, least, this.#blocks[first + index]?.asked ?? least, view)
    }
  }

  /** A write under way may be there in part. */
  #check(number: number, least: number, most: number, bytes: Buffer): void {
    const block = this.#blocks[number]
    if (block === undefined) return
    let zero = false
    for (let each = least; each <= most; each++) if (block.zeroes.has(each)) zero = true
    for (let at = 0; at < BLOCK; at += 8) {
      const [stamp, version] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)]
      if (version === 0 ? zero : stamp === number && version >= least && version <= most) continue
      const range = `versions ${least} to ${most}${zero ? ', or zero,' : ''}`
      throw new Error(`block ${number} reads as block ${stamp}, version ${version}; ${range} are possible`)
    }
  }
}

function stamped(number: number, version: number): Buffer {
  const bytes = Buffer.alloc(BLOCK)
  for (let at = 0; at < BLOCK; at += 8) {
    bytes.writeUInt32LE(number, at)
    bytes.writeUInt32LE(version, at + 4)
  }
  return bytes
}
