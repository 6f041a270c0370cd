// SPDX-License-Identifier: Apache-2.0
// Waiting that ends: for shutdowns, where something may be stuck for ever.

/** Waits for the work, `deadlineMs` milliseconds at most. Work that fails in time rejects; what it does later goes unseen. */
export async function atMost(work: Promise<unknown>, deadlineMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, deadlineMs)
  })
  try {
    await Promise.race([work, deadline])
  } finally {
    clearTimeout(timer)
  }
}
