// SPDX-License-Identifier: Apache-2.0
// Images that other programs change while nobody uses their nodes, which then move to another worker.

import { join } from 'node:path'
import t from 'tap'
import { mustQemuImg } from '../../../helpers/check-image.js'
import { Daemon } from '../../../helpers/daemon.js'
import { installed } from '../../../helpers/program.js'
import { shortFolder } from '../../../helpers/short-folder.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

for (const changed of ['source', 'target'])
  t.test(
    `a mirror of two disks whose ${changed} has got another backing file is refused`,
    { skip },
    async (t) => {
      const folder = shortFolder(t)
      const path = (name: string) => join(folder, name)
      for (const name of ['one', 'two']) mustQemuImg('create', '-q', '-f', 'raw', path(name), '1M')
      await using daemon = await Daemon.start({ directory: folder })
      const { client } = daemon
      const add = (name: string) =>
        client.execute('blockdev-add', {
          ...{ driver: 'qcow2', 'node-name': name, file: { driver: 'file', filename: path(name) } },
        })
      const mirror = () =>
        client.execute('blockdev-mirror', { 'job-id': 'm', device: 'source', target: 'target', sync: 'full' })
      for (const name of ['source', 'target']) {
        mustQemuImg('create', '-q', '-f', 'qcow2', '-b', 'one', '-F', 'raw', path(name))
        await add(name)
      }
      mustQemuImg('rebase', '-q', '-u', '-b', 'two', '-F', 'raw', path(changed))
      await t.rejects(mirror(), {
        message: new RegExp(`changed the backing file of the image while node '${changed}' was not in use`),
      })
      await client.execute('blockdev-del', { 'node-name': changed })
      await add(changed)
      await mirror()
      await client.event('BLOCK_JOB_READY')
    },
  )
