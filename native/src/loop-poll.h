// SPDX-License-Identifier: Apache-2.0
// An eventfd watched in the event loop of one environment, JS thread only.
// Closes itself with the environment; its memory lives until libuv has let go of it.
#pragma once

#include <node_api.h>
#include <uv.h>

#include <functional>

#include "unique-fd.h"

namespace blockferry {

class LoopPoll {
 public:
  /**
   * @param readable  runs in the loop after the eventfd was reset
   * @param ending    runs when the environment goes away before close()
   * @returns nullptr when there is no descriptor
   */
  static LoopPoll* open(napi_env env, std::function<void()> readable, std::function<void()> ending);

  int fd() const { return fd_.get(); }
  // Whether it keeps the loop alive. Not after close().
  void hold(bool alive);
  // Neither function runs after this. The object deletes itself.
  void close();

 private:
  LoopPoll() = default;
  static void onReadable(uv_poll_t* handle, int status, int events);
  static void onEnding(napi_async_cleanup_hook_handle hook, void* self);

  uv_poll_t handle_{};
  UniqueFd fd_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::function<void()> readable_;
  std::function<void()> ending_;
};

}  // namespace blockferry
