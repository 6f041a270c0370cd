// SPDX-License-Identifier: Apache-2.0
// How image formats can be known by their first bytes. Used to guess the format of an image nobody named one for, and
// to keep an image that was taken for raw from becoming something else. Pure.

/** Bytes of an image that are enough to tell. */
export const PROBE_LENGTH = 512

/** Values of the formats' own documents; 'qcow' has one magic number for its three versions. */
const magics: readonly { readonly format: string; readonly at: number; readonly bytes: readonly number[] }[] =
  [
    { format: 'qcow', at: 0, bytes: [0x51, 0x46, 0x49, 0xfb] },
    { format: 'qed', at: 0, bytes: ascii('QED\0') },
    { format: 'vmdk', at: 0, bytes: ascii('KDMV') },
    { format: 'vmdk', at: 0, bytes: ascii('COWD') },
    { format: 'vmdk', at: 0, bytes: ascii('# Disk DescriptorFile') },
    { format: 'vpc', at: 0, bytes: ascii('conectix') },
    { format: 'vhdx', at: 0, bytes: ascii('vhdxfile') },
    { format: 'vdi', at: 64, bytes: [0x7f, 0x10, 0xda, 0xbe] },
    { format: 'parallels', at: 0, bytes: ascii('WithoutFreeSpace') },
    { format: 'parallels', at: 0, bytes: ascii('WithouFreSpacExt') },
    { format: 'luks', at: 0, bytes: [...ascii('LUKS'), 0xba, 0xbe] },
    { format: 'bochs', at: 0, bytes: ascii('Bochs Virtual HD Image') },
    { format: 'cloop', at: 0, bytes: ascii('#!/bin/sh\n#V2.0 Format\nmodprobe cloop') },
  ]

/**
 * @param start  the first PROBE_LENGTH bytes of an image, or all it has
 * @returns the format that begins so ('qcow2' from its version 2 on), undefined for none that is known
 */
export function formatOf(start: Uint8Array): string | undefined {
  const found = magics.find(({ at, bytes }) => bytes.every((byte, index) => start[at + index] === byte))
  if (found?.format !== 'qcow') return found?.format
  const version = start.length < 8 ? 0 : new DataView(start.buffer, start.byteOffset).getUint32(4)
  return version >= 2 ? 'qcow2' : 'qcow'
}

function ascii(text: string): number[] {
  return [...text].map((character) => character.charCodeAt(0))
}
