// SPDX-License-Identifier: Apache-2.0
// The bytes are not what they claim to be, or need what we do not have. Thrown by codecs of files; whoever reads the
// file adds its name. Never retried.

export class FormatError extends Error {
  override readonly name = 'FormatError'
}
