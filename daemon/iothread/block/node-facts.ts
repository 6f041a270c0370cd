// SPDX-License-Identifier: Apache-2.0
// What the main thread knows of the nodes of a graph: facts of leaves are asked, and nodes that changed are reported. Part of
// the graph.
// Rule: nobody hears of a node before it is ready for use and was announced.

import type { NodeReport } from '../messages.js'
import type { BlockNode } from './node.js'
import type { NodeRecord, Records } from './records.js'
import { nodeReport } from './report.js'

export class NodeFacts {
  readonly #records: Records
  readonly #changed: (reports: NodeReport[]) => void
  readonly #failed: (node: string, op: string, error: unknown) => void
  /** Leaves whose facts are being asked. */
  readonly #asking = new Set<BlockNode>()

  /**
   * @param changed  given the nodes that are new or changed, in the order they came to be
   * @param failed   told of a leaf that could not tell
   */
  constructor(
    records: Records,
    changed: (reports: NodeReport[]) => void,
    failed: (node: string, op: string, error: unknown) => void,
  ) {
    this.#records = records
    this.#changed = changed
    this.#failed = failed
  }

  /** Facts of a leaf; one that cannot tell keeps what it told last. */
  async ask(record: NodeRecord): Promise<void> {
    if (record.children.length > 0 || record.node.driver.facts === undefined) return
    this.#asking.add(record.node)
    try {
      record.facts = await record.node.driver.facts()
    } catch (error) {
      this.#failed(record.node.name, 'stat', error)
    } finally {
      this.#asking.delete(record.node)
    }
  }

  /** Asks leaves for their facts anew and reports nodes that changed. A leaf that does not answer is not asked again. */
  async refresh(): Promise<void> {
    const leaves = this.#records.all().filter(({ node }) => !this.#asking.has(node))
    const asked = new Set<NodeRecord>()
    let reporting: Promise<void> | undefined
    // Leaves that answer together are reported at once: each is below the whole of a chain.
    const reportSoon = async () => {
      await new Promise((resolve) => setImmediate(resolve))
      reporting = undefined
      const records = this.#records.all().filter((record) => asked.has(record))
      asked.clear()
      this.report(records)
    }
    await Promise.all(
      leaves.map(async (record) => {
        await this.ask(record)
        for (const one of this.#records.above([record.node])) asked.add(one)
        reporting ??= reportSoon()
        await reporting
      }),
    )
  }

  /** They are ready for use. */
  announce(records: readonly NodeRecord[]): void {
    this.#report(records)
  }

  /** They may have changed. */
  report(records: readonly NodeRecord[]): void {
    this.#report(records.filter(({ sent }) => sent !== undefined))
  }

  #report(records: readonly NodeRecord[]): void {
    const changed: NodeReport[] = []
    for (const record of records) {
      const report = nodeReport(record, this.#records)
      if (JSON.stringify(report) === JSON.stringify(record.sent)) continue
      record.sent = report
      changed.push(report)
    }
    if (changed.length > 0) this.#changed(changed)
  }
}
