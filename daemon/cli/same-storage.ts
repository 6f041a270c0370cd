// SPDX-License-Identifier: Apache-2.0
// Whether two images are the same bytes under two names: links, device nodes, and a loop device over its own file.
// Used before a mirror, which would empty what it is to read.

import type { Stats } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'

/** @returns false when it cannot be told */
export async function isSameStorage(one: Stats, other: Stats): Promise<boolean> {
  if (one.isBlockDevice() && other.isBlockDevice() && one.rdev === other.rdev) return true
  const [below, otherBelow] = await Promise.all([backingFile(one), backingFile(other)])
  return below.dev === otherBelow.dev && below.ino === otherBelow.ino
}

/** The file under a loop device; anything else is its own. */
async function backingFile(stats: Stats): Promise<Stats> {
  if (!stats.isBlockDevice()) return stats
  const [major, minor] = deviceNumbers(stats.rdev)
  try {
    const name = await readFile(`/sys/dev/block/${major}:${minor}/loop/backing_file`, 'utf8')
    return await stat(name.replace(/\n$/, ''))
  } catch {
    return stats // no loop device, or its file has no name any more
  }
}

/** As the kernel packs them: 12 bits of major between 8 low and 12 high bits of minor. */
function deviceNumbers(rdev: number): [major: number, minor: number] {
  return [(rdev >>> 8) & 0xfff, (rdev & 0xff) | ((rdev >>> 12) & 0xfff00)]
}
