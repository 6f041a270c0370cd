// SPDX-License-Identifier: Apache-2.0
// See fd-poll.h.
#include "fd-poll.h"

#include <cerrno>
#include <memory>
#include <utility>

namespace blockferry {

FdPoll* FdPoll::open(napi_env env, UniqueFd fd, std::function<void(int)> ready, std::function<void()> ending,
                     int& error) {
  std::unique_ptr<FdPoll> poll(new FdPoll());
  poll->fd_ = std::move(fd);
  uv_loop_t* loop = nullptr;
  error = napi_get_uv_event_loop(env, &loop) == napi_ok ? uv_poll_init(loop, &poll->handle_, poll->fd_.get()) : -EINVAL;
  if (error != 0) return nullptr;
  poll->handle_.data = poll.get();
  poll->ready_ = std::move(ready);
  poll->ending_ = std::move(ending);
  napi_add_async_cleanup_hook(env, onEnding, poll.get(), &poll->hook_);
  return poll.release();
}

void FdPoll::watch(int events) {
  if (events == watched_) return;
  watched_ = events;
  if (events == 0) uv_poll_stop(&handle_);
  else uv_poll_start(&handle_, events, onReady);
}

void FdPoll::close() {
  auto* handle = reinterpret_cast<uv_handle_t*>(&handle_);
  if (uv_is_closing(handle)) return;
  uv_poll_stop(&handle_);
  uv_close(handle, [](uv_handle_t* closed) {
    const std::unique_ptr<FdPoll> poll(static_cast<FdPoll*>(closed->data));
    // The environment waits for its hooks, and so for this callback.
    if (poll->hook_ != nullptr) napi_remove_async_cleanup_hook(poll->hook_);
  });
  fd_.reset();
}

void FdPoll::onReady(uv_poll_t* handle, int status, int events) {
  auto* poll = static_cast<FdPoll*>(handle->data);
  if (status < 0) {
    // libuv does not tell the error, and has stopped watching though there may be bytes left to read before it.
    events = poll->watched_;
    uv_poll_start(handle, events, onReady);
  }
  poll->ready_(events);
}

void FdPoll::onEnding(napi_async_cleanup_hook_handle, void* self) {
  auto* poll = static_cast<FdPoll*>(self);
  poll->ending_();
  poll->close();
}

}  // namespace blockferry
