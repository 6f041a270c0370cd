// SPDX-License-Identifier: Apache-2.0
// Endpoints: everything clients come in through, made in the order of the options and served when the daemon is ready.
// Part of the composition root; start-up and end only, except for `info`.

import { fstatSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import type { Logger } from 'pino'
import type { ChardevSpec, MonitorSpec, SocketSpec } from './chardev-options.js'
import type { ControlPlane } from './control/control.js'
import { Listener } from './control/listener.js'
import type { ChardevInfo } from './control/session-commands.js'
import { adopt, type Bound, connectTo, listenFd, listenTcp, listenUnix } from './sockets.js'
import { StartError } from './start-error.js'

/** One way in. */
interface Endpoint {
  readonly label: string
  readonly filename: string
  /** A monitor is attached: clients will be served. */
  monitored: boolean
  serve(): void
  stop(): void
}

export class Endpoints {
  readonly #control: ControlPlane
  readonly #log: Logger
  /** By label, in the order they were made. */
  readonly #endpoints = new Map<string, Endpoint>()
  readonly #bound: Bound[] = []
  readonly #abandoned: () => void
  /** Connections the daemon was started with and that are open: passed descriptors and those it made itself. */
  #given = 0
  #stdio = false

  /** @param abandoned  called when the last connection the daemon was started with has closed */
  constructor(control: ControlPlane, log: Logger, abandoned: () => void) {
    this.#control = control
    this.#log = log
    this.#abandoned = abandoned
  }

  get empty(): boolean {
    return this.#endpoints.size === 0
  }

  /** A control socket of our own spelling: listens and is monitored. */
  async addSocket(spec: SocketSpec): Promise<void> {
    this.#listen(this.#freeLabel(), await listenUnix(spec), `unix:${spec.path}`).monitored = true
  }

  /** A listening socket the service manager passed. */
  async addPassed(fd: number): Promise<void> {
    this.#listen(this.#freeLabel(), await listenFd(fd), `fd:${fd}`).monitored = true
  }

  async addChardev(spec: ChardevSpec): Promise<void> {
    if (this.#endpoints.has(spec.id)) throw new StartError(`Duplicate ID '${spec.id}' for chardev`)
    if (spec.kind === 'stdio') this.#addStdio(spec.id)
    else if (spec.server) await this.#addServer(spec)
    else await this.#addClient(spec)
  }

  addMonitor(spec: MonitorSpec): void {
    const endpoint = this.#endpoints.get(spec.chardev)
    if (endpoint === undefined) throw new StartError(`chardev "${spec.chardev}" not found`)
    if (endpoint.monitored) throw new StartError(`Device '${spec.chardev}' is in use`)
    endpoint.monitored = true
  }

  /** Everything was made: from now on clients are answered. */
  serve(): void {
    for (const endpoint of this.#endpoints.values()) if (endpoint.monitored) endpoint.serve()
  }

  /** No new clients. */
  stop(): void {
    for (const endpoint of this.#endpoints.values()) endpoint.stop()
  }

  /** Takes the sockets' files away. */
  remove(): void {
    for (const bound of this.#bound.splice(0)) bound.remove()
  }

  /** For `query-chardev`. */
  info(): ChardevInfo[] {
    return [...this.#endpoints.values()].map(({ label, filename, monitored }) => ({
      label,
      filename: this.#control.clients(label) > 0 ? filename : `disconnected:${filename}`,
      'frontend-open': monitored,
    }))
  }

  async #addServer(spec: ChardevSpec & { kind: 'socket' }): Promise<void> {
    const { address } = spec
    let bound: Bound
    if ('path' in address) bound = await listenUnix({ path: address.path, mode: 0o600, group: undefined })
    else if ('fd' in address) bound = await listenFd(address.fd)
    else bound = await listenTcp(address.host, address.port)
    // Port 0 asks the kernel for a free one: tell which.
    const given = bound.server.address()
    const port = typeof given === 'object' && given !== null && 'port' in address ? given.port : undefined
    const told = port === undefined ? address : { ...address, port }
    const { listener } = this.#listen(spec.id, bound, addressText(told))
    if (!spec.wait) return
    process.stderr.write(`blockferryd: info: waiting for connection on: ${listener.filename}\n`)
    await listener.firstClient()
  }

  async #addClient(spec: ChardevSpec & { kind: 'socket' }): Promise<void> {
    const { address } = spec
    const socket = 'fd' in address ? adopt(address.fd) : await connectTo(address)
    socket.pause()
    this.#given++
    socket.once('close', () => {
      if (--this.#given === 0) this.#abandoned()
    })
    this.#endpoints.set(spec.id, {
      label: spec.id,
      filename: addressText(address),
      monitored: false,
      serve: () => {
        this.#control.serve(socket, spec.id)
        socket.resume()
      },
      stop: () => undefined,
    })
  }

  #addStdio(id: string): void {
    if (this.#stdio) throw new StartError('cannot use stdio by multiple character devices')
    this.#stdio = true
    const streams = { input: process.stdin, output: standardOutput(), closes: false }
    this.#endpoints.set(id, {
      label: id,
      filename: 'stdio',
      monitored: false,
      serve: () => this.#control.serveStreams(streams, id, 'stdio'),
      stop: () => undefined,
    })
  }

  #listen(label: string, bound: Bound, address: string): Endpoint & { listener: Listener } {
    this.#bound.push(bound)
    const listener = new Listener(bound.server, label, `${address},server=on`, this.#log)
    const endpoint = {
      label,
      filename: listener.filename,
      monitored: false,
      listener,
      serve: () => listener.serve((socket) => this.#control.serve(socket, label)),
      stop: () => listener.stop(),
    }
    this.#endpoints.set(label, endpoint)
    return endpoint
  }

  #freeLabel(): string {
    let number = 0
    while (this.#endpoints.has(`socket${number}`)) number++
    return `socket${number}`
  }
}

function addressText(address: (ChardevSpec & { kind: 'socket' })['address']): string {
  if ('path' in address) return `unix:${address.path}`
  if ('fd' in address) return `fd:${address.fd}`
  return `tcp:${address.host}:${address.port}`
}

/** Standard output that never blocks: Node writes to a pipe there synchronously unless it is opened as a socket. */
function standardOutput(): Writable {
  const facts = fstatSync(1)
  if (facts.isFIFO() || facts.isSocket()) return new Socket({ fd: 1, readable: false, writable: true })
  return process.stdout
}
