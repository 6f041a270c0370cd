// SPDX-License-Identifier: Apache-2.0
// Figures as a Markdown table, and the verdict on each requirement.

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const [low, high] = [sorted[middle - 1] ?? Number.NaN, sorted[middle] ?? Number.NaN]
  return sorted.length % 2 === 1 ? high : (low + high) / 2
}

/** All of them in another order each round: what runs after whom has its price. */
export function inTurn<T>(all: readonly T[], turn: number): T[] {
  const first = turn % Math.max(1, all.length)
  return [...all.slice(first), ...all.slice(0, first)]
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** Something that must hold. */
export interface Verdict {
  readonly what: string
  readonly value: string
  readonly reached: boolean
}

export function atMost(what: string, value: number, limit: number, unit = ''): Verdict {
  return { what: `${what} ≤ ${limit}${unit}`, value: `${round(value)}${unit}`, reached: value <= limit }
}

export function atLeast(what: string, value: number, limit: number, unit = ''): Verdict {
  return { what: `${what} ≥ ${limit}${unit}`, value: `${round(value)}${unit}`, reached: value >= limit }
}

export function round(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2)
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`
}
