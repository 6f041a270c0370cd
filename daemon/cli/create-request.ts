// SPDX-License-Identifier: Apache-2.0
// What `blockferry create` was asked, from the command line alone. Talks to no daemon.

import type { Format } from './image.js'
import type { NewImage } from './image-maker.js'
import { backingOf, dataFileOf, imageOptions } from './image-options.js'
import { usage } from './status.js'

/** Options of the command line. */
export interface CreateOptions {
  readonly format: Format
  readonly backing?: string
  readonly backingFormat?: string
  /** Each a list of name=value. */
  readonly options: readonly string[]
  /** Do not look at the backing file. */
  readonly unsafe: boolean
  readonly quiet: boolean
  readonly socket?: string
  readonly logLevel?: string
}

export interface CreateRequest extends NewImage {
  /** Bytes; undefined: that of the backing file. */
  readonly size: number | undefined
}

/**
 * @param size  bytes, from the command line
 * @throws CliError (usage)
 */
export function createRequest(size: number | undefined, options: CreateOptions): CreateRequest {
  const { format, unsafe } = options
  const given = imageOptions(format, options.options)
  const dataFile = dataFileOf(given.dataFile, options.socket)
  const backing = backingOf(
    format,
    options.backing ?? given.backing,
    options.backingFormat ?? given.backingFormat,
    options.socket,
  )
  if (size !== undefined && given.size !== undefined) throw usage('the size must be specified only once')
  const asked = size ?? given.size
  if (asked === undefined && backing === undefined) throw usage('image creation needs a size')
  if (asked === undefined && unsafe) throw usage('without looking at the backing file a size is needed')
  return { format, size: asked, backing, dataFile, more: given.more }
}
