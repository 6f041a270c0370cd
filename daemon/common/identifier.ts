// SPDX-License-Identifier: Apache-2.0
// What may be the name of a node, a job, an object or a character device: as QEMU's identifiers. Pure.

/** A letter, then letters, digits, '-', '.' and '_'. */
export function isIdentifier(text: string): boolean {
  return /^[A-Za-z][A-Za-z0-9\-._]*$/.test(text)
}
