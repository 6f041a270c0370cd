// SPDX-License-Identifier: Apache-2.0
// A descriptor of ours watched in the event loop of one environment, JS thread only.
// Closes itself and the descriptor with the environment; its memory lives until libuv has let go of it.
#pragma once

#include <node_api.h>
#include <uv.h>

#include <functional>

#include "unique-fd.h"

namespace blockferry {

class FdPoll {
 public:
  /**
   * Watches nothing at first. The descriptor becomes non-blocking.
   * @param ready   runs in the loop with what of UV_READABLE and UV_WRITABLE may be tried. With an error condition that
   *                is all that is watched: who tries hears the error.
   * @param ending  runs when the environment goes away before close()
   * @param error   -errno when the result is nullptr; the descriptor is closed then
   */
  static FdPoll* open(napi_env env, UniqueFd fd, std::function<void(int)> ready, std::function<void()> ending,
                      int& error);

  int fd() const { return fd_.get(); }
  // UV_READABLE, UV_WRITABLE, both or 0. While something is watched the loop stays alive.
  void watch(int events);
  // Neither function runs after this, the descriptor is closed at once. The object deletes itself.
  void close();

 private:
  FdPoll() = default;
  static void onReady(uv_poll_t* handle, int status, int events);
  static void onEnding(napi_async_cleanup_hook_handle hook, void* self);

  uv_poll_t handle_{};
  UniqueFd fd_;
  int watched_ = 0;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::function<void(int)> ready_;
  std::function<void()> ending_;
};

}  // namespace blockferry
