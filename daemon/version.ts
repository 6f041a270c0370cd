// SPDX-License-Identifier: Apache-2.0
// Which release of the reference daemon our control protocol follows, and who we are. Clients look at the former to
// decide what they may ask.

import type { Version } from '../protocol/qmp.js'
import { PRODUCT_VERSION } from './common/version.js'

export const PROTOCOL_VERSION: Version = {
  qemu: { major: 10, minor: 0, micro: 13 },
  package: `blockferry ${PRODUCT_VERSION}`,
}
