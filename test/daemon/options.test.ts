// SPDX-License-Identifier: Apache-2.0
// Command line and configuration file: what is understood, what is refused and with which status.

import t from 'tap'
import { parseChardev, parseMonitor, parseSocket } from '../../daemon/chardev-options.js'
import { DEFAULTS, merge, parseArguments, parseConfig } from '../../daemon/options.js'
import { StartError } from '../../daemon/start-error.js'

function options(...args: string[]) {
  const line = parseArguments(args)
  if (line.kind !== 'run') throw new Error(`expected options, got ${line.kind}`)
  return merge(undefined, line.given)
}

function refused(parse: () => unknown): { message: string; status: number } {
  try {
    parse()
  } catch (error) {
    if (error instanceof StartError) return { message: error.message, status: error.status }
    throw error
  }
  throw new Error('was accepted')
}

t.test('values may follow their option or an equals sign', async (t) => {
  const { settings, steps } = options(
    '--log-level',
    'debug',
    '--aio=threads',
    '--expect-disks=2',
    '--socket=/a',
    '--socket',
    '/b',
  )
  t.match(settings, { logLevel: 'debug', aio: 'threads', expectDisks: 2 })
  t.same(
    steps.map((step) => step.value),
    ['/a', '/b'],
  )
})

t.test('steps keep the order of the command line', async (t) => {
  const { steps } = options('--chardev', 'stdio,id=c', '--blockdev', 'null-co,node-name=n', '--monitor', 'c')
  t.same(
    steps.map((step) => step.kind),
    ['chardev', 'blockdev', 'monitor'],
  )
})

const wrongLines = [
  { args: ['--zork'], message: "unknown option '--zork'", status: 2 },
  { args: ['--zork=1'], message: "unknown option '--zork'", status: 2 },
  { args: ['zork'], message: "unexpected argument 'zork'", status: 2 },
  { args: ['--socket'], message: "option '--socket' needs a value", status: 2 },
  { args: ['--daemonize=yes'], message: "option '--daemonize' takes no value", status: 2 },
  {
    args: ['--log-level', 'loud'],
    message: "--log-level: 'loud' is none of error, warn, info, debug, trace",
    status: 2,
  },
  { args: ['--expect-disks', '3'], message: "--expect-disks: '3' is none of 0, 1, 2", status: 2 },
]
for (const { args, message, status } of wrongLines) {
  t.test(`${args.join(' ')} is refused with status ${status}`, async (t) => {
    t.same(
      refused(() => parseArguments(args)),
      { message, status },
    )
  })
}

t.test('the configuration file takes the same keys and lists for repetition', async (t) => {
  const given = parseConfig(
    '{"log-level":"info","expect-disks":2,"socket":["/a","/b,mode=0660"],"blockdev":{"driver":"null-co","node-name":"n"}}',
    'f',
  )
  t.equal(given.settings.logLevel, 'info')
  t.equal(given.settings.expectDisks, 2)
  t.same(
    given.steps.map(({ kind, value }) => [kind, value]),
    [
      ['socket', '/a'],
      ['socket', '/b,mode=0660'],
      ['blockdev', '{"driver":"null-co","node-name":"n"}'],
    ],
  )
})

t.test('the command line overrides the file, and the file the defaults', async (t) => {
  const file = parseConfig('{"log-level":"info","aio":"threads"}', 'f')
  const line = parseArguments(['--log-level', 'trace'])
  if (line.kind !== 'run') throw new Error('expected options')
  t.same(merge(file, line.given).settings, { ...DEFAULTS, logLevel: 'trace', aio: 'threads' })
})

const wrongFiles = [
  { name: 'an unknown key', text: '{"zork":1}', message: "f: unknown option 'zork'" },
  { name: 'a value of a wrong type', text: '{"socket":1}', message: "f: 'socket' cannot be 1" },
  { name: 'a list at the top', text: '[]', message: 'f: expected a JSON object' },
  { name: 'config', text: '{"config":"g"}', message: "f: 'config' cannot be given in a configuration file" },
]
for (const { name, text, message } of wrongFiles) {
  t.test(`${name} in the file is refused with status 78`, async (t) => {
    t.same(
      refused(() => parseConfig(text, 'f')),
      { message, status: 78 },
    )
  })
}

t.test('text that is no JSON in the file is refused with status 78', async (t) => {
  t.equal(refused(() => parseConfig('{', 'f')).status, 78)
})

t.test('a socket takes mode and group beside its path', async (t) => {
  t.same(parseSocket('/run/a,,b,mode=0660,group=kvm'), { path: '/run/a,b', mode: 0o660, group: 'kvm' })
  t.same(parseSocket('/run/a'), { path: '/run/a', mode: 0o600, group: undefined })
})

t.test('a socket with a mode that is none is refused', async (t) => {
  t.match(
    refused(() => parseSocket('/run/a,mode=rw')),
    { message: "'rw' is not a file mode such as 0660" },
  )
})

const chardevs = [
  {
    text: 'socket,id=c,path=/p,server=on,wait=off',
    spec: { kind: 'socket', id: 'c', address: { path: '/p' }, server: true, wait: false },
  },
  { text: 'socket,id=c,path=/p,server=on', spec: { server: true, wait: true } },
  { text: 'socket,id=c,path=/p', spec: { server: false, wait: false } },
  { text: 'socket,id=c,fd=7', spec: { address: { fd: 7 }, server: false } },
  {
    text: 'socket,host=h,port=1,server,wait=off,id=c',
    spec: { address: { host: 'h', port: 1 }, server: true },
  },
  { text: 'stdio,id=c', spec: { kind: 'stdio', id: 'c' } },
]
for (const { text, spec } of chardevs) {
  t.test(`--chardev ${text} is understood`, async (t) => {
    t.match(parseChardev(text), spec)
  })
}

const wrongChardevs = [
  { text: 'foo,id=c', message: "'foo' is not a valid char driver name" },
  { text: 'socket,path=/p', message: 'chardev: no id specified' },
  { text: 'socket,id=c,path=/p,zork=1', message: "Invalid parameter 'zork'" },
  { text: 'socket,id=c,path=/p,server=maybe', message: "Parameter 'server' expects 'on' or 'off'" },
  { text: 'socket,id=c,host=h', message: 'chardev: socket: no port given' },
]
for (const { text, message } of wrongChardevs) {
  t.test(`--chardev ${text} is refused`, async (t) => {
    t.same(
      refused(() => parseChardev(text)),
      { message, status: 1 },
    )
  })
}

t.test('a monitor names its chardev first or by key', async (t) => {
  t.match(parseMonitor('c,mode=control,id=m'), { chardev: 'c', id: 'm' })
  t.match(parseMonitor('chardev=c'), { chardev: 'c' })
  t.match(
    refused(() => parseMonitor('mode=control')),
    { message: "Parameter 'chardev' is missing" },
  )
})
