// SPDX-License-Identifier: Apache-2.0
// Texts as names of exports and contexts may be.

import fc from 'fast-check'

export const text: fc.Arbitrary<string> = fc
  .string({ maxLength: 40, unit: 'grapheme' })
  .filter((some) => !some.includes('\0'))
