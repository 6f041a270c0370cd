// SPDX-License-Identifier: Apache-2.0
// What a codec of HTTP refuses.

import { Refusal } from '../../protocol/http/refusal.js'

/** @returns the refusal, or undefined where there is none */
export function refusalOf(call: () => unknown): Refusal | undefined {
  try {
    call()
    return undefined
  } catch (error) {
    if (error instanceof Refusal) return error
    throw error
  }
}
