// SPDX-License-Identifier: Apache-2.0
// `--image-opts` without a driver: the format is guessed, as without `-f`, so that no container is taken for its disk.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { installed } from '../../helpers/program.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { run } from './run.js'
import { ScriptedServer } from './scripted-server.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

/** A qcow2 image of 8 MiB with data over one of 4 MiB. */
function images(t: Test) {
  const folder = t.testdir({})
  const [base, image] = [join(folder, 'base'), join(folder, 'image')]
  mustQemuImg('create', '-q', '-f', 'qcow2', base, '4M')
  qemuIo(base, 'write -P 1 0 1M')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image, '8M')
  qemuIo(image, 'write -P 2 2M 1M')
  return { folder, base, image }
}

t.test('a qcow2 image is one', { skip }, async (t) => {
  const { folder, base, image } = images(t)
  const options = `file.filename=${image}`
  t.match((await run(['info', '--image-opts', options])).stdout, 'file format: qcow2')
  const target = join(folder, 'target')
  const named = `${options},backing.file.filename=${base}`
  t.equal((await run(['convert', '-q', '-O', 'qcow2', '--image-opts', named, target])).status, 0)
  qemuIo(target, 'read -P 1 0 1M', 'read -P 2 2M 1M')
  t.match(await run(['resize', '-q', '--shrink', '--image-opts', options, '3M']), { status: 0, stderr: '' })
  qemuIo(image, 'read -P 1 0 1M', 'read -P 2 2M 1M')
  t.match(mustQemuImg('info', image), 'virtual size: 3 MiB')
})

t.test('the bytes of a raw one that are named are taken as they are', { skip }, async (t) => {
  const { image } = images(t)
  const part = `offset=0,size=4096,file.filename=${image}`
  t.match((await run(['info', '--image-opts', part])).stdout, 'file format: raw')
  t.match(
    (await run(['info', '--image-opts', `driver=raw,file.filename=${image}`])).stdout,
    'file format: raw',
  )
})

t.test('neither a driver nor a file', async (t) => {
  const { status, stderr } = await run(['info', '--image-opts', 'filename=a'])
  t.same(
    { status, stderr },
    {
      status: 2,
      stderr: "blockferry: --image-opts 'filename=a': Must specify either driver or file\n",
    },
  )
})

t.test('check takes them as qemu-img does', { skip }, async (t) => {
  const { image } = images(t)
  for (const options of [`driver=qcow2,file.filename=${image}`, `file.filename=${image}`]) {
    const words = ['check', '--image-opts', options]
    t.same(await run(words), pick(qemuImg(...words)))
  }
  for (const options of [`driver=raw,file.filename=${image}`, `driver=file,filename=${image}`])
    t.match(await run(['check', '--image-opts', options]), {
      status: qemuImg('check', '--image-opts', options).status,
      stderr: /does not support checks/,
    })
  t.match(await run(['check', '-f', 'qcow2', '--image-opts', `file.filename=${image}`]), {
    stderr: /mutually exclusive/,
  })
})

const choices = [
  { words: ['check'], said: 'file.cache.direct=on', cache: { direct: true, 'no-flush': false } },
  { words: ['check'], said: 'file.cache.no-flush=on', cache: { direct: false, 'no-flush': true } },
  { words: ['check'], said: 'cache.direct=on', cache: { direct: true, 'no-flush': false } },
  { words: ['check', '-T', 'none'], said: 'file.cache.direct=off', cache: { direct: false } },
  {
    words: ['check', '-T', 'none'],
    said: 'file.cache.no-flush=on',
    cache: { direct: true, 'no-flush': true },
  },
  { words: ['check'], said: 'file.force-share=on', 'force-share': true },
  { words: ['info'], said: 'cache.direct=on', cache: { direct: true } },
  { words: ['info'], said: 'cache.no-flush=on', cache: { direct: false, 'no-flush': true } },
  { words: ['info'], said: 'force-share=on', 'force-share': true },
  { words: ['compare', '-T', 'none', 'other'], said: 'cache.direct=off', cache: { direct: false } },
]
for (const { words, said, ...kept } of choices)
  t.test(`what the user says of a node goes before the mode: ${words.join(' ')}, ${said}`, async (t) => {
    const folder = shortFolder(t, { image: '' })
    const [socket, image] = [join(folder, 's'), join(folder, 'image')]
    const server = await ScriptedServer.listen(socket, (request, say) =>
      say({ error: { class: 'GenericError', desc: 'no' }, id: request.id }),
    )
    t.teardown(() => server.close())
    const options = `driver=qcow2,file.filename=${image},${said}`
    const all = words.map((word) => (word === 'other' ? options : word))
    t.match(await run([...all, '--image-opts', options, '--socket', socket]), { stderr: /: no\n$/ })
    const { arguments: sent } = server.requests.find(({ execute }) => execute === 'blockdev-add') ?? {}
    t.match(sent, kept)
  })

function pick({ status, stdout, stderr }: ReturnType<typeof qemuImg>) {
  return { status, stdout, stderr }
}
