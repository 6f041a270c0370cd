// SPDX-License-Identifier: Apache-2.0
// What a disk's worker reports besides its jobs: it reaches whom it is for.

import t from 'tap'
import { scriptedDaemon } from './scripted-daemon.js'

t.test('an image that is corrupt is told by an event', async (t) => {
  const daemon = scriptedDaemon()
  t.teardown(() => daemon.shutdown(1000))
  await daemon.run('blockdev-add', { driver: 'file', 'node-name': 'f', filename: '/disk' })
  const worker = daemon.workers.find(({ nodes }) => nodes.has('f'))
  worker?.say({ kind: 'image-corrupted', node: 'f', text: 'bad table', offset: 512, size: 8, fatal: false })
  t.ok(daemon.seen.includes('BLOCK_IMAGE_CORRUPTED'), daemon.seen.join())
})
