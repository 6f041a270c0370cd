// SPDX-License-Identifier: Apache-2.0
// See loop-poll.h.
#include "loop-poll.h"

#include <sys/eventfd.h>

#include <memory>

namespace blockferry {

LoopPoll* LoopPoll::open(napi_env env, std::function<void()> readable, std::function<void()> ending) {
  std::unique_ptr<LoopPoll> poll(new LoopPoll());
  poll->fd_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  uv_loop_t* loop = nullptr;
  if (!poll->fd_.valid() || napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  if (uv_poll_init(loop, &poll->handle_, poll->fd_.get()) != 0) return nullptr;
  poll->handle_.data = poll.get();
  poll->readable_ = std::move(readable);
  poll->ending_ = std::move(ending);
  uv_poll_start(&poll->handle_, UV_READABLE, onReadable);
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll->handle_));
  napi_add_async_cleanup_hook(env, onEnding, poll.get(), &poll->hook_);
  return poll.release();
}

void LoopPoll::hold(bool alive) {
  auto* handle = reinterpret_cast<uv_handle_t*>(&handle_);
  if (alive) uv_ref(handle);
  else uv_unref(handle);
}

void LoopPoll::close() {
  auto* handle = reinterpret_cast<uv_handle_t*>(&handle_);
  if (uv_is_closing(handle)) return;
  uv_poll_stop(&handle_);
  uv_close(handle, [](uv_handle_t* closed) {
    const std::unique_ptr<LoopPoll> poll(static_cast<LoopPoll*>(closed->data));
    // The environment waits for its hooks, and so for this callback.
    if (poll->hook_ != nullptr) napi_remove_async_cleanup_hook(poll->hook_);
  });
}

void LoopPoll::onReadable(uv_poll_t* handle, int, int) {
  auto* poll = static_cast<LoopPoll*>(handle->data);
  uint64_t count = 0;
  if (::read(poll->fd_.get(), &count, sizeof count) < 0) return;
  poll->readable_();
}

void LoopPoll::onEnding(napi_async_cleanup_hook_handle, void* self) {
  auto* poll = static_cast<LoopPoll*>(self);
  poll->ending_();
  poll->close();
}

}  // namespace blockferry
