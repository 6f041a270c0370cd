// SPDX-License-Identifier: Apache-2.0
// The version of this package, from package.json three folders up from where this file is built. Read once, at start.

import { createRequire } from 'node:module'

const manifest: { version: string } = createRequire(import.meta.url)('../../../package.json')

export const PRODUCT_VERSION = manifest.version
