// SPDX-License-Identifier: Apache-2.0
// Sizes and durations.

import t from 'tap'
import { formatDuration, formatEta, formatRate, formatSize, parseSize } from '../../../daemon/common/units.js'

t.test('sizes are read with binary suffixes', async (t) => {
  const table: [string, number | undefined][] = [
    ['0', 0],
    ['4096', 4096],
    ['512k', 524288],
    ['512K', 524288],
    ['100M', 104857600],
    ['100MiB', 104857600],
    ['100mb', 104857600],
    ['1G', 1073741824],
    ['1.5G', 1610612736],
    ['2T', 2199023255552],
    ['7P', 7881299347898368],
    ['10b', 10],
    ['8P', undefined],
    ['0.3k', undefined],
    ['', undefined],
    ['-1', undefined],
    ['1e3', undefined],
    ['0x10', undefined],
    ['12Q', undefined],
    ['M', undefined],
    ['1 G', 1073741824],
  ]
  for (const [text, bytes] of table) t.equal(parseSize(text), bytes, JSON.stringify(text))
})

t.test('sizes are written with three digits that count', async (t) => {
  const table: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [1610612736, '1.50 GiB'],
    [104857600, '100 MiB'],
    [1048575, '1.00 MiB'],
    [12 * 1024 ** 2, '12.0 MiB'],
    [Number.MAX_SAFE_INTEGER, '8.00 PiB'],
  ]
  for (const [bytes, text] of table) t.equal(formatSize(bytes), text)
  t.equal(formatRate(1536), '1.50 KiB/s')
})

t.test('durations are seconds below a minute, then a clock', async (t) => {
  const table: [number, string][] = [
    [-5, '0.00 s'],
    [850, '0.85 s'],
    [12345, '12.3 s'],
    [59600, '1:00'],
    [61500, '1:02'],
    [3723000, '1:02:03'],
    [360000000, '100:00:00'],
  ]
  for (const [ms, text] of table) t.equal(formatDuration(ms), text)
})

t.test('what is left is told in whole seconds', async (t) => {
  t.same([0, 3, 59, 62, 3723].map(formatEta), ['0 s', '3 s', '59 s', '1:02', '1:02:03'])
})
