// SPDX-License-Identifier: Apache-2.0
// What a power cut may leave of changes that no flush has made safe: which of them are lost, and which sectors of one that
// was under way. All combinations of a few; of many, those that tell apart what depends on what. Pure.

/** Some of the changes are on the disk, and maybe some sectors of one more. */
export interface Reordering {
  readonly whole: (change: number) => boolean
  readonly torn?: { readonly change: number; readonly part: number }
}

/** With as many, each combination of kept and lost is tried. */
const ALL_OF = 4
/** Ways to tear a change: sectors of so many that are on the disk. */
const PARTS: readonly ((sector: number, of: number) => boolean)[] = [
  (sector, of) => sector < of / 2,
  (sector, of) => sector >= of / 2,
  (sector) => sector % 2 === 1,
]

/** @param sectors  how many each change has */
export function* reorderings(sectors: readonly number[]): Generator<Reordering> {
  const { length } = sectors
  if (length <= ALL_OF) {
    for (let which = 0; which < 2 ** length; which++) yield { whole: (at) => ((which >> at) & 1) === 1 }
  } else {
    yield { whole: () => false }
    yield { whole: () => true }
    for (let one = 0; one < length; one++) {
      yield { whole: (at) => at <= one }
      yield { whole: (at) => at > one }
      yield { whole: (at) => at === one }
      yield { whole: (at) => at !== one }
    }
  }
  for (const [change, count] of sectors.entries()) {
    if (count === 1) continue
    // Beside nothing else, all others, or those that began before it.
    const others = [() => false, () => true, (at: number) => at < change]
    for (const part of PARTS.keys()) for (const whole of others) yield { whole, torn: { change, part } }
  }
}

/** Whether a sector of a change, counted from its first, is on the disk. */
export function isKept(how: Reordering, change: number, sector: number, of: number): boolean {
  const { whole, torn } = how
  return torn?.change === change ? (PARTS[torn.part]?.(sector, of) ?? false) : whole(change)
}
