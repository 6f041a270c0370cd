// SPDX-License-Identifier: Apache-2.0
// What a destination tells a source that opened a return path, on the same connection.
// Source: enum mig_rp_message_type in QEMU 10.0, migration/migration.h.
//
//   be16 type | be16 length | payload

import { Writer } from './bytes.js'

const Type = { shut: 1, pong: 2, switchoverAck: 7 } as const

/** The stream was read to its end, and loaded or stored. A source with a return path completes only then. */
export function formatShut(): Uint8Array {
  return new Writer().u16(Type.shut).u16(4).u32(0).finish()
}

/** @param payload  that of the PING */
export function formatPong(payload: Uint8Array): Uint8Array {
  return new Writer().u16(Type.pong).u16(payload.length).raw(payload).finish()
}

/** All devices are ready for the end (capability switchover-ack). QEMU before 8.1 takes it for an error. */
export function formatSwitchoverAck(): Uint8Array {
  return new Writer().u16(Type.switchoverAck).u16(0).finish()
}
