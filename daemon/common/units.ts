// SPDX-License-Identifier: Apache-2.0
// Sizes and durations as people write and read them. Used by the command line and by option parsing; pure.
// Suffixes are binary, as qemu-img has them: 1k is 1024 bytes.

const suffixes = ['', 'k', 'm', 'g', 't', 'p', 'e']
const pattern = /^(\d+(?:\.\d+)?)\s*(?:([kmgtpe])(?:i?b)?|b)?$/i
const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'] as const

/**
 * Bytes of '4096', '512k', '100M', '1.5G' (also 'MiB', 'MB': all binary); case does not matter.
 * @returns whole bytes up to Number.MAX_SAFE_INTEGER, undefined for anything else
 */
export function parseSize(text: string): number | undefined {
  const bytes = bytesOf(text)
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** NaN: it is no size. */
function bytesOf(text: string): number {
  const [, digits = 'none', suffix = ''] = pattern.exec(text.trim()) ?? []
  return Number(digits) * 1024 ** suffixes.indexOf(suffix.toLowerCase())
}

/** What is wrong with a text that parseSize() does not take. @param examples  what would be right */
export function sizeProblem(text: string, examples: string): string {
  const tooLarge = pattern.test(text.trim()) && bytesOf(text) >= Number.MAX_SAFE_INTEGER
  return tooLarge ? 'a size below 8 PiB' : `a size such as ${examples}`
}

/** 1610612736 → '1.50 GiB'; below 1 KiB whole bytes. Three digits that count. */
export function formatSize(bytes: number): string {
  let power = 0
  let value = bytes
  while (value >= 1023.5 && power < units.length - 1) {
    value /= 1024
    power++
  }
  return `${power === 0 ? value.toFixed(0) : threeDigits(value)} ${units[power]}`
}

/** Bytes per second: '1.20 GiB/s'. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatSize(bytesPerSecond)}/s`
}

/** 850 → '0.85 s', 61500 → '1:02', 3723000 → '1:02:03'. Rounded; never negative. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, ms) / 1000
  if (seconds < 59.5) return `${threeDigits(seconds)} s`
  const whole = Math.round(seconds)
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor(whole / 60) % 60
  const two = (n: number) => String(n).padStart(2, '0')
  return hours === 0 ? `${minutes}:${two(whole % 60)}` : `${hours}:${two(minutes)}:${two(whole % 60)}`
}

/** Whole seconds to go: 3 → '3 s', 62 → '1:02'. */
export function formatEta(seconds: number): string {
  return seconds < 60 ? `${Math.max(0, Math.round(seconds))} s` : formatDuration(seconds * 1000)
}

function threeDigits(value: number): string {
  if (value >= 99.95) return value.toFixed(0)
  return value.toFixed(value >= 9.995 ? 1 : 2)
}
