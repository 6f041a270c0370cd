// SPDX-License-Identifier: Apache-2.0
// What stands before the data of a libvirt save image: that of the image that is converted, or made from a domain's XML.

import { formatSaveImage, type SaveImage, withFormat } from '../../protocol/migration/libvirt-save.js'
import { CommandError } from '../errors.js'
import type { ImageFile } from './image-file.js'
import type { SinkSpec } from './messages.js'

/** Room for a longer XML, as libvirt leaves it. */
const ROOM = 65536

type FileSink = Extract<SinkSpec, { kind: 'file' }>

/** @returns no bytes for images that are not libvirt's */
export function frontFor({ format, domain }: FileSink, source: ImageFile | undefined): Uint8Array {
  if (format === 'stream' || format === 'mapped-ram') return new Uint8Array()
  const data = format === 'libvirt-sparse' ? 'sparse' : 'raw'
  if (domain !== undefined) return formatSaveImage(saveImage(domain.xml, domain.running, data))
  const front = source?.front
  if (front === undefined)
    throw new CommandError(`a ${format} image needs the XML of its domain: parameter 'xml'`)
  return withFormat(front.bytes, front.image.header, data)
}

function saveImage(xml: string, wasRunning: boolean, format: 'raw' | 'sparse'): SaveImage {
  const areaLength = new TextEncoder().encode(xml).length + 1 + ROOM
  const header = {
    byteOrder: 'little',
    complete: true,
    version: 2,
    areaLength,
    wasRunning,
    format,
    cookieOffset: 0,
  } as const
  return { header, xml, cookie: undefined }
}
