// SPDX-License-Identifier: Apache-2.0
// All drivers. A new one is a file beside this one and a line below.

import { enumOf } from '../types.js'
import { compress } from './compress.js'
import { copyBeforeWrite, snapshotAccess } from './copy-before-write.js'
import { file, hostDevice } from './file.js'
import { blkdebug, inject } from './inject.js'
import { memory } from './memory.js'
import { nbd } from './nbd.js'
import { nullLeaf } from './null.js'
import { qcow2 } from './qcow2.js'
import { raw } from './raw.js'
import { throttle } from './throttle.js'

export const drivers = {
  blkdebug,
  compress,
  'copy-before-write': copyBeforeWrite,
  file,
  host_device: hostDevice,
  nbd,
  'null-aio': nullLeaf,
  'null-co': nullLeaf,
  qcow2,
  raw,
  'snapshot-access': snapshotAccess,
  throttle,
  'x-inject': inject,
  'x-memory': memory,
}

export type DriverName = keyof typeof drivers

const driverNames = Object.keys(drivers) as readonly DriverName[]

export const blockdevDriver = enumOf('BlockdevDriver', driverNames)
