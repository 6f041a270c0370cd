// SPDX-License-Identifier: Apache-2.0
// What users are told of an image, from its header. Pure.

import {
  Autoclear,
  Compatible,
  ExtensionType,
  extensionText,
  type Header,
  Incompatible,
} from '../../../../../protocol/qcow2/header.js'
import type { Snapshot } from '../../../../../protocol/qcow2/snapshots.js'
import type { FormatFacts } from '../../../messages.js'
import { bitmapFacts, type StoredBitmaps } from './bitmap-directory.js'

export function formatFacts(
  header: Header,
  snapshots: readonly Snapshot[],
  bitmaps: StoredBitmaps | undefined,
): FormatFacts {
  const dataFile = extensionText(header, ExtensionType.dataFile)
  const backingFormat = extensionText(header, ExtensionType.backingFormat)
  return {
    kind: 'qcow2',
    version: header.version,
    clusterSize: 2 ** header.clusterBits,
    refcountBits: 2 ** header.refcountOrder,
    lazyRefcounts: header.compatible.has(Compatible.lazyRefcounts),
    extendedL2: header.incompatible.has(Incompatible.extendedL2),
    compression: header.compression,
    dirty: header.incompatible.has(Incompatible.dirty),
    corrupt: header.incompatible.has(Incompatible.corrupt),
    ...(dataFile === undefined ? {} : { dataFile }),
    ...(header.incompatible.has(Incompatible.dataFile) && {
      dataFileRaw: header.autoclear.has(Autoclear.rawDataFile),
    }),
    ...(header.backingFile === undefined ? {} : { backingFile: header.backingFile }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
    snapshots: snapshots.map(({ id, name, vmStateSize, seconds, nanoseconds, guestClock, icount }) => ({
      ...{ id, name, vmStateSize, seconds, nanoseconds, guestClock },
      ...(icount !== undefined && { icount }),
    })),
    bitmaps: bitmapFacts(bitmaps),
  }
}
