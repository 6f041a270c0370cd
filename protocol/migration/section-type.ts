// SPDX-License-Identifier: Apache-2.0
// The bytes that begin sections and what else stands between them. Source: QEMU 10.0, migration/savevm.h.

export const SectionType = {
  eof: 0x00,
  start: 0x01,
  part: 0x02,
  end: 0x03,
  full: 0x04,
  /** Only inside the configuration section and inside states of devices. */
  subsection: 0x05,
  /** What the states of devices look like, as JSON. */
  description: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const
