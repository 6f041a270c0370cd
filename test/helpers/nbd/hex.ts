// SPDX-License-Identifier: Apache-2.0
// Messages as they stand in the protocol's text: hexadecimal digits, and texts in quotes.

/** Bytes of `4e42 0003 'disk'`; what is in quotes is UTF-8. Spaces only separate. */
export function wire(text: string): Uint8Array {
  const parts = [...text.matchAll(/'([^']*)'|([0-9a-fA-F]+)/g)]
  return new Uint8Array(
    Buffer.concat(
      parts.map(([, quoted, digits = '']) =>
        quoted === undefined ? Buffer.from(digits, 'hex') : Buffer.from(quoted),
      ),
    ),
  )
}

export function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
