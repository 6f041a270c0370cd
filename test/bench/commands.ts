// SPDX-License-Identifier: Apache-2.0
// How many commands a second one pipelined connection gets, and whether 500 clients at once are all answered.

import { connect } from 'node:net'
import { Daemon } from '../helpers/daemon.js'
import type { BenchOptions } from './options.js'
import { atLeast, median, print, type Verdict } from './report.js'

const REQUESTS = 100_000
const CLIENTS = 500

export async function commands(options: BenchOptions): Promise<Verdict[]> {
  print('\n## Commands\n')
  const rates: number[] = []
  let answered = 0
  for (let turn = 0; turn < options.rounds; turn++) {
    await using daemon = await Daemon.start({ directory: options.directory })
    rates.push(await pipelined(daemon.socket))
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => daemon.connect()))
    const answers = await Promise.all(clients.map((client) => client.execute('query-jobs')))
    answered = answers.length
  }
  return [
    atLeast('commands: query-jobs a second, pipelined', median(rates), 20_000),
    atLeast('commands: clients answered at once', answered, CLIENTS),
  ]
}

/** Requests as fast as the socket takes them, answers counted by their line ends. */
async function pipelined(path: string): Promise<number> {
  const socket = connect(path)
  const request = '{"execute":"query-jobs"}\n'
  const block = request.repeat(1000)
  let lines = 0
  let start = 0
  return await new Promise<number>((resolve, reject) => {
    socket.on('error', reject)
    socket.on('data', (data: Buffer) => {
      for (let at = data.indexOf(10); at >= 0; at = data.indexOf(10, at + 1)) lines++
      if (start === 0 && lines === 1) {
        socket.write('{"execute":"qmp_capabilities"}\n')
        start = performance.now()
        for (let sent = 0; sent < REQUESTS; sent += 1000) socket.write(block)
      } else if (lines >= REQUESTS + 2) {
        socket.destroy()
        resolve(REQUESTS / ((performance.now() - start) / 1000))
      }
    })
  })
}
