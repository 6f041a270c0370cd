// SPDX-License-Identifier: Apache-2.0
// The recorded migrations in test/fixtures/migration: their bytes, and what the manifest says of them.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

export const fixturesFolder = new URL('../../../../test/fixtures/migration/', import.meta.url)

/** What is in a block after everything was replayed. Offsets are those of mapped-ram files. */
export interface ExpectedBlock {
  readonly name: string
  readonly used_length: number
  readonly nonzero_pages: number
  readonly zero_pages: number
  /** Of its memory, used_length bytes. */
  readonly sha256: string
  readonly bits_set?: number
  readonly header_offset?: number
  readonly bitmap_offset?: number
  readonly pages_offset?: number
  /** Guest-physical address, where the list has it. */
  readonly gpa?: number
}

export interface ExpectedSubsection {
  readonly name: string
  readonly ver: number
  readonly caps?: readonly string[]
  readonly bits?: number
  readonly uuid?: string
}

/** A file whose stream begins at start_offset (or 0). All offsets are those of the unpacked file. */
export interface ExpectedStream {
  readonly file: string
  readonly kind: 'stream' | 'mapped-ram' | 'multifd-main'
  readonly size: number
  readonly sha256: string
  readonly qemu: string
  readonly machine: string
  readonly start_offset?: number
  readonly configuration: { readonly machine: string; readonly subsections: readonly ExpectedSubsection[] }
  readonly ram_section_id: number
  readonly mem_size_total: number
  readonly blocks?: readonly ExpectedBlock[]
  readonly records: { readonly zero?: number; readonly page?: number; readonly xbzrle?: number }
  readonly ram_eos_count: number
  readonly multifd_flush_count: number
  readonly ram_end_section_seen: boolean
  /** The first device section after RAM, or EOF. */
  readonly tail_offset: number
  readonly tail_length: number
  readonly commands: readonly { readonly name: string; readonly payload: string }[]
  readonly eof_offset: number
  readonly vmdesc_length: number
  readonly device_sections: readonly string[]
  /** Where END of RAM and its footer are over, when sections of others follow. */
  readonly ram_end_footer_end?: number
  readonly other_sections_before_ram_end?: readonly ExpectedOther[]
  readonly early_section?: ExpectedEarly
  /** The file with the memory of one block. */
  readonly ram_image?: string
  readonly ram_image_block?: string
  readonly libvirt_header?: ExpectedSaveHeader
  readonly sync_points_on_main?: number
  readonly sync_style?: 'EOS' | 'MULTIFD_FLUSH'
  readonly after_replay_of_all_files?: { readonly totals: ExpectedTotals; readonly blocks: ExpectedBlock[] }
  readonly first_tick_after_restore?: number
}

export interface ExpectedOther {
  readonly id: number
  readonly idstr: string
  readonly START: number
  readonly PART: number
  readonly END: number
}

export interface ExpectedEarly {
  readonly offset: number
  readonly idstr: string
  readonly length_with_header_and_footer: number
}

/** `normal` and `zero` are pages in packets, `main_zero` records of the main connection. */
export interface ExpectedTotals {
  readonly normal: number
  readonly zero: number
  readonly packets: number
  readonly sync_packets: number
  readonly main_zero: number
}

export interface ExpectedSaveHeader {
  readonly magic: string
  readonly version: number
  readonly data_len: number
  readonly was_running: number
  readonly format: number
  readonly cookie_offset: number
  readonly xml_length: number
  readonly cookie: string
}

/** A file that is no stream by itself. */
export interface ExpectedPart {
  readonly file: string
  readonly kind: 'multifd-channel' | 'ram-image'
  readonly size: number
  readonly sha256: string
  readonly nonzero_pages?: number
}

export type Expected = ExpectedStream | ExpectedPart

const manifest = JSON.parse(readFileSync(new URL('manifest.json', fixturesFolder), 'utf8')) as {
  fixtures: Expected[]
}

export const fixtures: readonly Expected[] = manifest.fixtures

export const streams: readonly ExpectedStream[] = fixtures.filter(isStream)

export function isStream(fixture: Expected): fixture is ExpectedStream {
  return fixture.kind !== 'multifd-channel' && fixture.kind !== 'ram-image'
}

/** @param name  of the file, with or without `.gz` */
export function streamNamed(name: string): ExpectedStream {
  const found = streams.find(({ file }) => nameOf(file) === nameOf(name))
  if (found === undefined) throw new Error(`no stream is called ${name}`)
  return found
}

/** @param name  of the file, with or without `.gz` */
export function unpack(name: string): Buffer {
  return gunzipSync(readFileSync(new URL(`${nameOf(name)}.gz`, fixturesFolder)))
}

export function nameOf(file: string): string {
  return file.replace(/\.gz$/, '')
}

/** Names of the channel files of a main connection's file, in the order of their ids. */
export function channelsOf(main: ExpectedStream): string[] {
  const stem = nameOf(main.file).replace(/main$/, '')
  return fixtures.map(({ file }) => nameOf(file)).filter((name) => name.startsWith(`${stem}channel`))
}
