// SPDX-License-Identifier: Apache-2.0
// Contexts of block status and queries for them.
// Source: doc/proto.md, "Metadata querying"; QEMU 10.0, docs/interop/nbd.rst.

/** What is allocated, and what reads as zeroes. */
export const ALLOCATION = 'base:allocation'
/** Which layer of the backing chain an extent comes from: 0 none, 1 the node itself, 2 its backing node, … */
export const ALLOCATION_DEPTH = 'qemu:allocation-depth'
/** With a bitmap's name behind it: what is dirty. */
export const DIRTY_BITMAP = 'qemu:dirty-bitmap:'

/** Queries that mean all that begins so, when contexts are listed. To choose contexts they have to be named. */
const wildcards: readonly string[] = ['base:', 'qemu:', DIRTY_BITMAP]

/**
 * @param offered  names of contexts, each once
 * @param queries  of an option LIST_META_CONTEXT
 * @returns those of `offered` that fit a query, in their order; all when there is no query
 * What fits nothing, is of a foreign namespace or has none is passed over, as QEMU does.
 */
export function listedContexts(offered: readonly string[], queries: readonly string[]): string[] {
  if (queries.length === 0) return [...offered]
  const names = new Set(queries)
  const prefixes = wildcards.filter((wildcard) => names.has(wildcard))
  return offered.filter((name) => names.has(name) || prefixes.some((prefix) => name.startsWith(prefix)))
}

/**
 * @param queries  of an option SET_META_CONTEXT
 * @returns places in `offered` of those that a query names, ascending: they serve as ids
 */
export function chosenContexts(offered: readonly string[], queries: readonly string[]): number[] {
  const names = new Set(queries)
  for (const wildcard of wildcards) names.delete(wildcard)
  return [...offered.keys()].filter((index) => names.has(offered[index] ?? ''))
}
