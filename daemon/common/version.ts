// SPDX-License-Identifier: Apache-2.0
// The version of this package, from its package.json. Read once, at start.

import { createRequire } from 'node:module'

const manifest: { version: string } = createRequire(import.meta.url)('#manifest')

export const PRODUCT_VERSION = manifest.version
