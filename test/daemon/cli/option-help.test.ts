// SPDX-License-Identifier: Apache-2.0
// `-o help` lists what -o takes, line by line as qemu-img has it, and does nothing else.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { imageOptions } from '../../../daemon/cli/image-options.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const values: Readonly<Record<string, string>> = {
  ...{ compat: '1.1', data_file_raw: 'on', extended_l2: 'on', nocow: 'on', lazy_refcounts: 'on' },
  ...{ refcount_bits: '16', size: '1M', cluster_size: '64k' },
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line.startsWith('  '))
}

for (const format of ['raw', 'qcow2'] as const)
  for (const [command, letter, files] of [
    ['create', '-f', ['a']],
    ['convert', '-O', ['a', 'b']],
  ] as const)
    t.test(`${command} ${letter} ${format} -o help`, { skip }, async (t) => {
      const { status, stdout, stderr } = await run([command, letter, format, '-o', 'help'])
      t.same({ status, stderr }, { status: 0, stderr: '' })
      const theirs = String(spawnSync('qemu-img', [command, letter, format, '-o', 'help', ...files]).stdout)
      const ours = lines(stdout)
      t.ok(ours.length > 1)
      for (const line of ours) {
        t.ok(lines(theirs).includes(line), line)
        const name = /\S+(?==)/.exec(line)?.[0] ?? ''
        t.doesNotThrow(() => imageOptions(format, [`${name}=${values[name] ?? 'x'}`]), name)
      }
      const left = lines(theirs).filter((line) => !ours.includes(line))
      t.ok(
        left.every((line) => /^ {2}(encrypt|extent_size_hint)/.test(line)),
        left.join(),
      )
    })

t.test('help among other options, with files', async (t) => {
  const file = join(t.testdir({}), 'image')
  const asked = await run(['create', '-f', 'qcow2', '-o', 'cluster_size=64k,help', file, '1M'])
  t.match(asked, { status: 0, stdout: /^Supported options:\n/ })
  t.notOk(existsSync(file))
  const named = await run(['create', '-q', '-f', 'qcow2', '-o', 'data_file=a,,help', join(file, 'x'), '1M'])
  t.notMatch(named.stdout, /Supported/)
})
