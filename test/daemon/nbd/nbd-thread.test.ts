// SPDX-License-Identifier: Apache-2.0
// The NBD server's worker without the thread: listening, handshakes of good and bad clients, limits, and the end.

import { once } from 'node:events'
import { existsSync, linkSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { FromWorker, Report, Requests, ServerSpec, ToWorker } from '../../../daemon/nbd/messages.js'
import { NbdThread } from '../../../daemon/nbd/nbd-thread.js'
import { closeDescriptor } from '../../../native/descriptors.js'
import { Wire } from '../../../native/wire.js'
import { formatClientFlags } from '../../../protocol/nbd/hello.js'
import { formatOption, type OptionRequest } from '../../../protocol/nbd/option.js'
import type { OfferedExport } from '../../../protocol/nbd/server-negotiation.js'
import { negotiate } from '../../helpers/nbd/client.js'
import { disk, parseReplies, plain } from '../../helpers/nbd/negotiation.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { leftOver, openDescriptors } from '../../native/descriptors.js'

const HELLO = 18

/** The worker's root object, and what it reported. */
class Server {
  readonly path: string
  readonly chosen: Extract<Report, { kind: 'chosen' }>[] = []
  readonly log: string[] = []
  port: number | undefined
  readonly #thread = new NbdThread((message) => this.#receive(message))
  readonly #pending = new Map<number, { resolve: (v: never) => void; reject: (e: Error) => void }>()
  #next = 0

  private constructor(path: string) {
    this.path = path
  }

  static async listen(
    t: Test,
    spec: Partial<ServerSpec> = {},
    path = `${shortFolder(t)}/n`,
  ): Promise<Server> {
    const server = new Server(path)
    t.teardown(() => server.end())
    const address = { kind: 'unix' as const, path }
    server.port = (
      await server.request('listen', {
        ...{
          address,
          handshakeMs: 0,
          maxConnections: 0,
          firstConnection: 0,
          tls: undefined,
          authz: undefined,
        },
        ...spec,
      })
    ).port
    await server.offer(disk, plain)
    return server
  }

  request<N extends keyof Requests>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']> {
    const request = this.#next++
    const settled = new Promise<Requests[N]['reply']>((resolve, reject) => {
      this.#pending.set(request, { resolve, reject })
    })
    void this.#thread.receive({ request, name, args } as ToWorker)
    return settled
  }

  offer(...exports: readonly OfferedExport[]): Promise<null> {
    return this.request('offer', { exports })
  }

  #receive(message: FromWorker): void {
    if ('report' in message) {
      const { report } = message
      if (report.kind === 'chosen') this.chosen.push(report)
      else this.log.push(report.text)
      return
    }
    const pending = this.#pending.get(message.reply)
    if ('error' in message) pending?.reject(new Error(message.error.message))
    else pending?.resolve(message.value as never)
  }

  connect(): Socket {
    const socket = connect(this.path)
    socket.on('error', () => undefined)
    return socket
  }

  async until(seen: () => boolean): Promise<void> {
    while (!seen()) await new Promise((resolve) => setImmediate(resolve))
  }

  async end(): Promise<void> {
    for (const { fd } of this.chosen.splice(0)) closeDescriptor(fd)
    await this.request('shutdown', { deadlineMs: 0 })
  }
}

/** Sends options after the flags and reads until the server has nothing more to say. @returns what it said after its hello */
async function talk(server: Server, bytes: Uint8Array): Promise<Buffer> {
  const socket = server.connect()
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  socket.write(Buffer.concat([formatClientFlags({ fixed: true, noZeroes: true }), bytes]))
  await closed(socket)
  return Buffer.concat(parts).subarray(HELLO)
}

/** Resolves when it is, with a reset too: what was not accepted yet is reset. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve()
    else socket.once('close', () => resolve())
  })
}

const options = (...requests: readonly OptionRequest[]) => Buffer.concat(requests.map(formatOption))

t.test('LIST, INFO and unknown options are answered, and ABORT ends', async (t) => {
  const server = await Server.listen(t)
  const unknown = Buffer.from('49484156454f5054000000630000000361626300', 'hex').subarray(0, 19)
  const said = await talk(
    server,
    Buffer.concat([
      options(
        { kind: 'LIST' },
        { kind: 'INFO', name: 'disk', infos: [] },
        { kind: 'INFO', name: 'no', infos: [] },
      ),
      unknown,
      options({ kind: 'ABORT' }),
    ]),
  )
  t.match(parseReplies(said), [
    { kind: 'SERVER', name: 'disk' },
    { kind: 'SERVER', name: 'plain' },
    { kind: 'ACK' },
    { kind: 'INFO' },
    { kind: 'ACK' },
    { kind: 'error', error: 'ERR_UNKNOWN' },
    { kind: 'error', error: 'ERR_UNSUP' },
    { kind: 'ACK' },
  ])
  t.strictSame(server.log, [])
})

t.test('whoever chooses an export is handed on, with what came behind', async (t) => {
  const server = await Server.listen(t)
  for (const choice of [
    { kind: 'GO', name: 'disk', infos: [] },
    { kind: 'EXPORT_NAME', name: 'disk' },
  ] as const) {
    const socket = server.connect()
    socket.write(
      Buffer.concat([
        formatClientFlags({ fixed: true, noZeroes: true }),
        options(choice),
        Buffer.from('rest'),
      ]),
    )
    await server.until(() => server.chosen.length > 0)
    const [chosen] = server.chosen.splice(0)
    t.match(chosen, { agreed: { exportName: 'disk', size: disk.size, replies: 'simple' } })
    t.equal(Buffer.from(chosen?.rest ?? []).toString(), 'rest')
    const nobody = { readable: () => undefined, drained: () => undefined, failed: () => undefined }
    const wire = new Wire(chosen?.fd ?? -1, nobody)
    wire.put(Buffer.from('served'))
    wire.flush()
    wire.close()
    let text = ''
    for await (const part of socket) text += (part as Buffer).toString('latin1')
    t.match(text, /served$/, 'the connection is the one that was handed on')
  }
})

t.test('exports are those that were offered last', async (t) => {
  const server = await Server.listen(t)
  await server.offer(plain)
  await t.rejects(negotiate(server.connect(), { exportName: 'disk' }), /ERR_UNKNOWN/)
  const client = await negotiate(server.connect(), { exportName: 'plain' })
  client.socket.destroy()
})

t.test('a client that does not choose in time is cut off, and why is told', async (t) => {
  const server = await Server.listen(t, { handshakeMs: 30 })
  for (const bytes of [Buffer.alloc(0), Buffer.from([0, 0, 0]), options({ kind: 'LIST' })]) {
    const socket = server.connect()
    socket.resume()
    socket.write(bytes)
    await closed(socket)
  }
  const client = await negotiate(server.connect(), { exportName: 'disk' })
  await server.until(() => server.log.length === 3)
  t.match(server.log[0], /no export chosen within 0.03 s/)
  client.socket.destroy()
})

t.test('what breaks the protocol is cut off, and others are served', async (t) => {
  const server = await Server.listen(t)
  for (const bytes of [
    'ffffffff',
    '00000003deadbeefdeadbeef0000000300000000',
    '0000000349484156454f505400000007ffffffff',
  ]) {
    const socket = server.connect()
    socket.resume()
    socket.write(Buffer.from(bytes, 'hex'))
    await closed(socket)
  }
  await server.until(() => server.log.length === 3)
  const client = await negotiate(server.connect(), { exportName: 'disk' })
  client.socket.destroy()
})

t.test('clients above the limit wait ungreeted, and come in when one leaves', async (t) => {
  const server = await Server.listen(t, { maxConnections: 2 })
  const [served, shaking] = [await negotiate(server.connect(), { exportName: 'disk' }), server.connect()]
  await once(shaking, 'data')
  let greeted = 0
  const waiting = Array.from({ length: 3 }, () => server.connect())
  for (const socket of waiting) socket.once('data', () => greeted++)
  await Promise.all(waiting.map((socket) => once(socket, 'connect')))
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve))
  t.equal(greeted, 0)
  shaking.destroy()
  await server.until(() => greeted === 1)
  await server.request('left', { connection: server.chosen[0]?.connection ?? -1 })
  await server.until(() => greeted === 2)
  // One that has given up is no client any more.
  for (const socket of waiting) socket.destroy()
  const last = await negotiate(server.connect(), { exportName: 'disk' })
  served.socket.destroy()
  last.socket.destroy()
})

t.test('a socket file that nobody listens on is replaced, any other is left alone', async (t) => {
  const path = `${shortFolder(t)}/n`
  const other = createServer().listen(path)
  await once(other, 'listening')
  await t.rejects(Server.listen(t, {}, path), { message: `somebody listens on '${path}' already` })
  // A second name of it stays when it ends, as of a process that was killed.
  linkSync(path, `${path}2`)
  other.close()
  await once(other, 'close')
  const server = await Server.listen(t, {}, `${path}2`)
  t.equal(statSync(server.path).mode & 0o777, 0o600)
  const client = await negotiate(server.connect(), { exportName: 'disk' })
  client.socket.destroy()
  writeFileSync(`${path}3`, 'data')
  await t.rejects(Server.listen(t, {}, `${path}3`), /is not a socket/)
  t.equal(readFileSync(`${path}3`, 'utf8'), 'data')
  const no = `${path}no/dir/n`
  await t.rejects(Server.listen(t, {}, no), {
    message: `Failed to bind socket to ${no}: No such file or directory`,
  })
})

t.test('the end takes the socket file away, ends handshakes and leaves no descriptor', async (t) => {
  const before = openDescriptors()
  await t.test('served', async (t) => {
    const server = await Server.listen(t, { maxConnections: 3 })
    const client = await negotiate(server.connect(), { exportName: 'disk' })
    const sockets = [server.connect(), server.connect(), server.connect(), server.connect()]
    for (const socket of sockets) socket.resume()
    await server.until(() => sockets.filter(({ bytesRead }) => bytesRead > 0).length === 2)
    await server.request('shutdown', { deadlineMs: 0 })
    t.notOk(existsSync(server.path))
    await Promise.all(sockets.map(closed))
    client.socket.destroy()
  })
  t.strictSame(await leftOver(before), [])
})

t.test('over TCP, at a port that is free', async (t) => {
  const server = await Server.listen(t, { address: { kind: 'tcp', host: '127.0.0.1', port: 0 } })
  const client = await negotiate(connect(server.port ?? 0, '127.0.0.1'), { exportName: 'disk' })
  t.equal(client.agreed.size, disk.size)
  client.socket.destroy()
})
