// SPDX-License-Identifier: Apache-2.0
// Text tables: columns as wide as their widest cell, two blanks between. Used by jobs.

/** @param align  per column; numbers read best on the right */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  align: readonly ('left' | 'right')[],
): string {
  const lines = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...lines.map((cells) => (cells[column] ?? '').length)))
  const lineOf = (cells: readonly string[]) =>
    cells
      .map((cell, column) => {
        const width = widths[column] ?? 0
        return align[column] === 'right' ? cell.padStart(width) : cell.padEnd(width)
      })
      .join('  ')
      .trimEnd()
  return lines.map((cells) => `${lineOf(cells)}\n`).join('')
}
