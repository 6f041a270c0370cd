// SPDX-License-Identifier: Apache-2.0
// What we are, and which release of the reference daemon our control protocol follows. Clients look at the latter to
// decide what they may ask.

import type { Version } from '../protocol/qmp.js'

export const PRODUCT_VERSION = '0.1.0'

export const PROTOCOL_VERSION: Version = {
  qemu: { major: 10, minor: 0, micro: 13 },
  package: `blockferry ${PRODUCT_VERSION}`,
}
