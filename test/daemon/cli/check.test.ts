// SPDX-License-Identifier: Apache-2.0
// `blockferry check` against `qemu-img check`: the same words, the same statuses.

import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, qemuImg } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { ImageFile, smallImage } from '../../helpers/qcow2-image.js'
import { run } from './run.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

const damages: Record<string, (image: ImageFile) => void> = {
  clean: () => undefined,
  leak: (image) => image.setRefcount(5, 2),
  corruption: (image) => image.setRefcount(5, 0),
}

function damaged(t: Test, name: string): string {
  const file = join(t.testdir({}), 'a.qcow2')
  writeFileSync(file, smallImage())
  const image = new ImageFile(file)
  damages[name]?.(image)
  image.save()
  return file
}

for (const name of Object.keys(damages)) {
  t.test(`output and status are those of qemu-img: ${name}`, { skip }, async (t) => {
    const file = damaged(t, name)
    t.same(await run(['check', file]), pick(qemuImg('check', file)))
    const json = await run(['check', '--output', 'json', file])
    const theirs = qemuImg('check', '--output', 'json', file)
    t.equal(json.status, theirs.status)
    const defaults = { corruptions: undefined, leaks: undefined }
    t.match(JSON.parse(json.stdout), { ...defaults, ...JSON.parse(theirs.stdout) })
  })

  t.test(
    `a repair leaves what qemu-img calls clean, and the disk as it was: ${name}`,
    { skip },
    async (t) => {
      const file = damaged(t, name)
      const whole = `${file}.whole`
      writeFileSync(whole, smallImage())
      const { status, stdout } = await run(['check', '--repair', 'all', file])
      t.equal(status, 0)
      t.match(
        stdout,
        name === 'clean' ? /^No errors/ : /^The following inconsistencies were found and repaired:/,
      )
      t.equal(qemuImg('check', file).status, 0)
      t.match(mustQemuImg('compare', '-s', whole, file), /identical/)
    },
  )
}

t.test(
  'a repair of leaks alone leaves an image that needs more as it is, with status 1',
  { skip },
  async (t) => {
    const file = damaged(t, 'corruption')
    copyFileSync(file, `${file}.before`)
    t.match(await run(['check', '-r', 'leaks', file]), { status: 1, stderr: /need to rebuild/ })
    t.ok(new ImageFile(file).bytes.equals(new ImageFile(`${file}.before`).bytes))
  },
)

t.test('what is no qcow2 image has no check: status 63, or 1 where the user said qcow2', async (t) => {
  const file = join(t.testdir({}), 'a.img')
  writeFileSync(file, Buffer.alloc(65536))
  const stderr = 'blockferry: This image format does not support checks\n'
  t.same(await run(['check', file]), { status: 63, stdout: '', stderr })
  t.same(await run(['check', '-f', 'raw', file]), { status: 63, stdout: '', stderr })
  t.match(await run(['check', '-f', 'qcow2', file]), { status: 1, stderr: /is not in qcow2 format/ })
})

function pick({ status, stdout, stderr }: { status: number | null; stdout: string; stderr: string }) {
  return { status, stdout, stderr }
}
