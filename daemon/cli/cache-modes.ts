// SPDX-License-Identifier: Apache-2.0
// The cache modes of QEMU's programs, and what they are for a node here. Whatever the mode, what a command has written is durable
// when it ends well; only `unsafe` does without.

export const cacheModes = ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'] as const
export type CacheMode = (typeof cacheModes)[number]

/** Past the page cache. */
export function isDirect(mode: CacheMode): boolean {
  return mode === 'none' || mode === 'directsync'
}

/** Nothing is flushed. */
export function isUnsafe(mode: CacheMode): boolean {
  return mode === 'unsafe'
}
