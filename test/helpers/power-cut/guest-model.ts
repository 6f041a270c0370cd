// SPDX-License-Identifier: Apache-2.0
// What a guest may find after a power cut: of each sector the content that was flushed last, or one that was asked for
// since. Requests of a guest under way at once do not overlap. Pure.

/** A request of the guest. */
export interface GuestChange {
  readonly op: 'write' | 'zero' | 'discard' | 'resize'
  /** First sector and how many; of a resize the old length and the new one, in sectors, come in their place. */
  readonly sector: number
  readonly count: number
  /** What the sectors hold then: see fillSectors(); 0 are zeroes. */
  readonly stamp: number
}

export type GuestEvent =
  | { readonly kind: 'guest began' | 'guest done' | 'guest failed'; readonly change: GuestChange }
  | { readonly kind: 'guest flushing' | 'guest flushed'; readonly flush: object }

/** Stamp of what a backing file holds. */
export const BACKING = 1
const WORD = 8
const PER_SECTOR = 512 / WORD

interface Content {
  /** Any of these; BACKING where something shows through. */
  readonly stamps: readonly number[]
  /** Nothing older may be seen once this was flushed. */
  readonly covers: boolean
  readonly change: GuestChange | undefined
}

export class GuestModel {
  /** Oldest first. */
  #sectors: Content[][]
  #lengths: number[]
  readonly #done = new Set<GuestChange>()
  readonly #flushes = new Map<object, ReadonlySet<GuestChange>>()

  /** @param sectors  what each holds, as stamp */
  constructor(sectors: readonly number[]) {
    this.#sectors = sectors.map((stamp) => [{ stamps: [stamp], covers: true, change: undefined }])
    this.#lengths = [sectors.length]
  }

  step(event: GuestEvent): void {
    switch (event.kind) {
      case 'guest began':
        this.#began(event.change)
        return
      case 'guest done':
        this.#done.add(event.change)
        if (event.change.op === 'resize') this.#resized(event.change)
        return
      case 'guest failed':
        return
      case 'guest flushing':
        this.#flushes.set(event.flush, new Set(this.#done))
        return
      case 'guest flushed':
        this.#flushed(this.#flushes.get(event.flush) ?? new Set())
        return
      default:
        event satisfies never
    }
  }

  /** @returns what is wrong with the content of a disk, or undefined */
  fault(disk: Buffer): string | undefined {
    const length = disk.length / 512
    if (!this.#lengths.includes(length)) return `${length} sectors, not ${this.#lengths.join(' or ')}`
    for (let sector = 0; sector < length; sector++) {
      const found = stampOf(disk, sector)
      const contents = this.#sectors[sector] ?? []
      if (found !== undefined && contents.some(({ stamps }) => stamps.includes(found))) continue
      const allowed = contents.map(({ stamps }) => stamps.join('/')).join(', ')
      return `sector ${sector} holds ${found ?? 'a mixture'}, not one of ${allowed}`
    }
    return undefined
  }

  /** What the sectors hold when nothing is left in doubt. */
  settled(disk: Buffer): number[] {
    return Array.from({ length: disk.length / 512 }, (_, sector) => stampOf(disk, sector) ?? -1)
  }

  #began(change: GuestChange): void {
    const { op, sector, count, stamp } = change
    if (op === 'resize') {
      this.#lengths.push(count)
      // While it shrinks, what is to go shows what is below, or nothing.
      for (let at = count; at < sector; at++)
        this.#sectors[at]?.push({ stamps: [0, BACKING], covers: false, change })
      for (let at = this.#sectors.length; at < count; at++)
        this.#sectors.push([{ stamps: [0], covers: true, change: undefined }])
      return
    }
    const content = { stamps: op === 'discard' ? [0, BACKING] : [stamp], covers: op !== 'discard', change }
    for (let at = sector; at < sector + count; at++) this.#sectors[at]?.push(content)
  }

  /** A new size is durable at once; what was cut off comes back as zeroes. */
  #resized({ count }: GuestChange): void {
    this.#lengths = [count]
    this.#sectors = this.#sectors.slice(0, count)
  }

  #flushed(covered: ReadonlySet<GuestChange>): void {
    for (const change of covered) this.#done.delete(change)
    for (const [sector, contents] of this.#sectors.entries()) {
      const last = contents.findLastIndex(({ change, covers }) => covers && change && covered.has(change))
      if (last > 0) this.#sectors[sector] = contents.slice(last)
    }
  }
}

/** Each word of a sector tells the stamp and the sector. */
export function fillSectors(bytes: Buffer, sector: number, count: number, stamp: number): void {
  for (let word = 0; word < count * PER_SECTOR; word++) {
    bytes.writeUInt32LE(stamp, word * WORD)
    bytes.writeUInt32LE(stamp === 0 ? 0 : sector + Math.floor(word / PER_SECTOR), word * WORD + 4)
  }
}

/** @returns undefined for a sector that is not whole, or of another place */
function stampOf(disk: Buffer, sector: number): number | undefined {
  const bytes = disk.subarray(sector * 512, (sector + 1) * 512)
  const stamp = bytes.readUInt32LE(0)
  const place = bytes.readUInt32LE(4)
  if (place !== (stamp === 0 ? 0 : sector)) return undefined
  return bytes.subarray(WORD).equals(bytes.subarray(0, 512 - WORD)) ? stamp : undefined
}
