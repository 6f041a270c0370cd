// SPDX-License-Identifier: Apache-2.0
// Random damage to bytes, of the kinds that hurt readers of formats: flipped bits, extreme values, values from elsewhere.

type Random = (below: number) => number

const extremes = [
  0n,
  1n,
  0x1ffn,
  0x200n,
  1n << 31n,
  1n << 32n,
  1n << 55n,
  1n << 62n,
  1n << 63n,
  2n ** 64n - 1n,
]

/**
 * @param bytes  changed in place
 * @param end    damage stays below it
 */
export function mutate(bytes: Buffer, end: number, random: Random): void {
  const rounds = 1 + random(6)
  for (let round = 0; round < rounds; round++) {
    const at = random(Math.max(1, Math.floor(end / 8))) * 8
    switch (random(5)) {
      case 0:
        bytes[at + random(8)] = random(256)
        break
      case 1: {
        const place = at + random(8)
        bytes[place] = (bytes[place] ?? 0) ^ (1 << random(8))
        break
      }
      case 2:
        bytes.writeBigUInt64BE(extremes[random(extremes.length)] ?? 0n, at)
        break
      case 3:
        bytes.copy(bytes, at, random(Math.floor(end / 8)) * 8, end)
        break
      default:
        // A host offset that is aligned, as a plausible pointer is.
        bytes.writeBigUInt64BE((BigInt(random(2)) << 63n) | BigInt(random(64) * 4096), at)
    }
  }
}
