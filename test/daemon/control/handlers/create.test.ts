// SPDX-License-Identifier: Apache-2.0
// blockdev-create and the images of drive-mirror: which worker they are made in, with which options, and what else may
// happen to their nodes meanwhile.

import t from 'tap'
import { type ScriptedDaemon, scriptedDaemon, scriptedReport } from '../scripted-daemon.js'
import { progress, receipt } from '../scripted-worker.js'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const leaf = (name: string) => ({ driver: 'file', 'node-name': name, filename: `/${name}` }) as const
const qcow2 = (more: object = {}) =>
  ({ 'job-id': 'c', options: { driver: 'qcow2', file: 'f', size: 1024, ...more } }) as const

async function withFiles(...names: string[]): Promise<ScriptedDaemon> {
  const daemon = scriptedDaemon()
  for (const name of names) await daemon.run('blockdev-add', leaf(name))
  return daemon
}

function end(daemon: ScriptedDaemon, id: string): void {
  const outcome = { kind: 'success' } as const
  for (const worker of daemon.workers)
    worker.say({ kind: 'job-ended', id, progress: progress(1, 1), outcome, receipt })
}

/** Arguments of the last request of a name, to any worker. */
function asked(daemon: ScriptedDaemon, name: string): unknown {
  return daemon.workers.flatMap((worker) => worker.asked.filter((one) => one.name === name)).at(-1)?.args
}

t.test('an image is made where its node is, and the node is held meanwhile', async (t) => {
  const daemon = await withFiles('f')
  await daemon.run('blockdev-create', qcow2())
  t.equal(daemon.workers.length, 1)
  t.match(asked(daemon, 'job-start'), {
    spec: { driver: 'qcow2', file: 'f', options: { size: 1024, version: 3, clusterSize: 65536 } },
  })
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'f' }), { message: 'Node f is in use' })
  end(daemon, 'c')
  await turn()
  await daemon.run('blockdev-del', { 'node-name': 'f' })
})

t.test('a data file joins the image, and its name is told', async (t) => {
  const daemon = await withFiles('f', 'd')
  await daemon.run('blockdev-create', qcow2({ 'data-file': 'd', 'data-file-raw': true }))
  t.same(
    daemon.placement().filter((nodes) => nodes !== ''),
    ['d f'],
  )
  t.match(asked(daemon, 'job-start'), {
    spec: { dataFile: 'd', options: { dataFileName: '/d', dataFileRaw: true } },
  })
})

t.test('a node defined inline is there for the job alone', async (t) => {
  const daemon = scriptedDaemon()
  const file = { driver: 'file', filename: '/new', 'node-name': 'own' } as const
  await daemon.run('blockdev-create', qcow2({ file }))
  t.match(asked(daemon, 'job-start'), { spec: { file } })
  await t.rejects(daemon.run('blockdev-add', leaf('own')), {
    message: "Duplicate nodes with node-name='own'",
  })
  end(daemon, 'c')
  await turn()
  t.same(daemon.placement(), [])
  await daemon.run('blockdev-add', leaf('own'))
})

t.test('a node that nobody knows is for the job to miss', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-create', qcow2({ file: 'nonode' }))
  t.match(asked(daemon, 'job-start'), { spec: { file: 'nonode' } })
})

t.test('what is refused leaves nodes and names free', async (t) => {
  const daemon = await withFiles('f')
  await t.rejects(daemon.run('blockdev-create', qcow2({ 'data-file': 'f' })), {
    message: /^Permission conflict on node 'f'/,
  })
  await t.rejects(daemon.run('blockdev-create', qcow2({ 'data-file': { ...leaf('f') } })), {
    message: "Duplicate nodes with node-name='f'",
  })
  daemon.script = (_worker, name) => {
    if (name === 'job-start') throw new Error('no')
  }
  await t.rejects(daemon.run('blockdev-create', qcow2({ 'data-file': { ...leaf('d') } })), { message: 'no' })
  t.same(daemon.placement(), ['f'])
  await daemon.run('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file: 'f' })
  await t.rejects(daemon.run('blockdev-create', qcow2()), { message: /unshared by node 'q'/ })
  t.same(await daemon.run('query-jobs', {}), [])
})

t.test('encryption is refused by name, whatever is said of it', async (t) => {
  const daemon = await withFiles('f')
  const luks = { format: 'luks', 'key-secret': 's', 'cipher-alg': 'aes-256', 'iter-time': 10 } as const
  await t.rejects(daemon.run('blockdev-create', qcow2({ encrypt: luks })), {
    message: 'Encrypted images (luks) are not supported',
  })
  await t.rejects(daemon.run('blockdev-create', qcow2({ encrypt: { format: 'qcow' } })), {
    message: 'Encrypted images (qcow) are not supported',
  })
  t.same(await daemon.run('query-jobs', {}), [])
  await daemon.run('blockdev-create', qcow2())
})

const drive = { 'job-id': 'j', device: 'src', target: '/out', sync: 'full' } as const

t.test('a drive-mirror makes a qcow2 image in its file and opens it without backing file', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'src', file: leaf('f') })
  await daemon.run('drive-mirror', { ...drive, format: 'qcow2' })
  t.match(asked(daemon, 'target-create'), {
    spec: { filename: '/out', size: 0 },
    image: { file: { driver: 'file', filename: '/out' }, options: { size: 64, backingFile: undefined } },
  })
  t.match(asked(daemon, 'node-add'), {
    spec: { driver: 'qcow2', backing: undefined, file: { filename: '/out' } },
  })
})

t.test('a new target has the format of the source, seen through filters', async (t) => {
  const daemon = scriptedDaemon()
  const file = { driver: 'qcow2', file: leaf('f') } as const
  await daemon.run('blockdev-add', { driver: 'x-inject', 'node-name': 'src', rules: [], file })
  await daemon.run('drive-mirror', drive)
  t.match(asked(daemon, 'node-add'), { spec: { driver: 'qcow2' } })
  const other = scriptedDaemon()
  await other.run('blockdev-add', { driver: 'raw', 'node-name': 'src', file: leaf('f') })
  await other.run('drive-mirror', drive)
  t.match(asked(other, 'node-add'), { spec: { driver: 'raw' } })
})

t.test('sync none lays the new image above the source', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'src', file: leaf('f') })
  await daemon.run('drive-mirror', { ...drive, sync: 'none', format: 'qcow2' })
  t.match(asked(daemon, 'target-create'), {
    image: { options: { backingFile: '/f', backingFormat: 'raw' } },
  })
  t.match(asked(daemon, 'node-add'), { spec: { driver: 'qcow2', backing: null } })
  t.match(asked(daemon, 'job-start'), { spec: { underlay: true, ownsTarget: true } })
})

t.test('sync top lays the new image above the backing file of the source', async (t) => {
  const daemon = scriptedDaemon()
  const base = { driver: 'raw', 'node-name': 'base', file: leaf('b') } as const
  await daemon.run('blockdev-add', { driver: 'qcow2', 'node-name': 'src', file: leaf('f'), backing: base })
  const [worker] = daemon.workers
  const report = (
    name: string,
    driver: string,
    filename: string,
    backing: Readonly<Record<string, string>>,
  ) => ({ ...scriptedReport, ...{ name, driver, filename, children: backing } }) as const
  worker?.say({
    kind: 'nodes',
    nodes: [report('base', 'raw', 'base.img', {}), report('src', 'qcow2', '/f', { backing: 'base' })],
    gone: [],
  })
  await t.rejects(daemon.run('drive-mirror', { ...drive, sync: 'top', format: 'raw' }), {
    message: "Backing file not supported for file format 'raw'",
  })
  await daemon.run('drive-mirror', { ...drive, sync: 'top' })
  t.match(asked(daemon, 'target-create'), {
    image: { options: { backingFile: `${process.cwd()}/base.img`, backingFormat: 'raw' } },
  })
})

t.test('an existing target without format is raw, unless it begins as an image', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'src', file: leaf('f') })
  const [worker] = daemon.workers
  worker?.replies.set('target-probe', 'qcow2')
  await t.rejects(daemon.run('drive-mirror', { ...drive, mode: 'existing' }), {
    message: "'/out' begins as a qcow2 image: say with 'format' whether it is one",
  })
  worker?.replies.set('target-probe', 'raw')
  await daemon.run('drive-mirror', { ...drive, mode: 'existing' })
  t.match(asked(daemon, 'node-add'), { spec: { driver: 'raw' } })
})
