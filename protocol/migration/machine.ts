// SPDX-License-Identifier: Apache-2.0
// What the name of a machine type tells: the version of QEMU whose ways it has. "pc-q35-10.0", "pc-i440fx-7.2".

type Version = readonly [major: number, minor: number]

/** One whose name has no version is taken for a new one. */
export function isSince(machine: string, [major, minor]: Version): boolean {
  const match = /-(\d+)\.(\d+)(?:\.\d+)?$/.exec(machine)
  if (match === null) return true
  const [found, part] = [Number(match[1]), Number(match[2])]
  return found > major || (found === major && part >= minor)
}
