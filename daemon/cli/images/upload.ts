// SPDX-License-Identifier: Apache-2.0
// `blockferry upload`: sends the bytes of a file or device to an image on an HTTP server. Which of them read as zeroes tells a
// daemon of the command's own, which also locks the file; those are zeroed there and not sent.

import { type FileHandle, open } from 'node:fs/promises'
import { findImage } from '../image.js'
import { extentsOf } from '../map.js'
import { sizeOfNode } from '../node-size.js'
import { withNodes } from '../open-nodes.js'
import { failed } from '../status.js'
import {
  eachPiece,
  type Part,
  pieces,
  RemoteImage,
  type TransferOptions,
  TransferProgress,
} from './transfer.js'

export interface UploadOptions extends TransferOptions {
  readonly forceShare: boolean
}

export async function upload(name: string, url: string, options: UploadOptions): Promise<void> {
  const image = await findImage(name, 'raw', false)
  const target = await RemoteImage.at(url, options)
  try {
    await withNodes({}, async ({ client }, nodes) => {
      const { features, most } = await target.options('max_writers')
      const node = await nodes.open(image, 'upload', {
        ...{ readOnly: true, direct: false, forceShare: options.forceShare },
      })
      await using file = await open(name)
      const facts = await file.stat()
      // A node has whole sectors; a file ends where it ends.
      const size = facts.isFile() ? facts.size : await sizeOfNode(client, node)
      const zeroes = features.includes('zero')
      const all = (await extentsOf(client, node, image)).map(({ start, length, zero }) => ({
        ...{ start, length: Math.min(length, size - start), zero: zero && zeroes },
      }))
      using progress = new TransferProgress('upload', size, options.progress)
      await eachPiece(pieces(all), Math.min(options.connections, most), async (part) => {
        if (part.zero) await target.patch({ op: 'zero', offset: part.start, size: part.length, flush: false })
        else await put(target, file, part)
        progress.did(part.length)
      })
      if (features.includes('flush')) await target.patch({ op: 'flush' })
      else await put(target, file, { start: 0, length: 0, zero: false })
    })
  } finally {
    target.server.close()
  }
}

/** @throws CliError; a file that has become shorter is an error too */
async function put(target: RemoteImage, file: FileHandle, { start, length }: Part): Promise<void> {
  const body = Buffer.alloc(length)
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(body, at, length - at, start + at)
    if (bytesRead === 0) throw failed(`the file has become shorter than ${start + length} bytes`)
    at += bytesRead
  }
  const headers = {
    'content-range': `bytes ${start}-${length === 0 ? '*' : start + length - 1}/*`,
    'content-length': String(length),
    'content-type': 'application/octet-stream',
  }
  const path = `${target.path}?flush=${length === 0 ? 'y' : 'n'}`
  await target.server.text({ method: 'PUT', path, headers, body })
}
