// SPDX-License-Identifier: Apache-2.0
// See wire-object.h.
#include "wire-object.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "byte-pieces.h"
#include "descriptors.h"
#include "local-socket.h"
#include "loop-call.h"

namespace blockferry {

Napi::Function WireObject::define(Napi::Env env) {
  return DefineClass(env, "Wire",
                     {
                         InstanceMethod<&WireObject::receive>("receive"),
                         InstanceMethod<&WireObject::send>("send"),
                         InstanceMethod<&WireObject::watch>("watch"),
                         InstanceMethod<&WireObject::shutdown>("shutdown"),
                         InstanceMethod<&WireObject::close>("close"),
                         InstanceMethod<&WireObject::release>("release"),
                     });
}

WireObject::WireObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<WireObject>(info) {
  Napi::Env env = info.Env();
  UniqueFd fd(info[0].As<Napi::Number>().Int32Value());
  // Whoever sends whole messages wants no gathering of small pieces. Refused where it is no TCP.
  const int yes = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  // A machine that lost its power says no good-bye.
  setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
  int error = 0;
  poll_ = FdPoll::open(env, std::move(fd), [this](int events) { ready(events); }, [this] { end(); }, error);
  if (poll_ == nullptr) {
    auto failure = Napi::Error::New(env, "cannot watch the socket");
    failure.Set("errno", Napi::Number::New(env, error));
    failure.ThrowAsJavaScriptException();
    return;
  }
  onReady_ = Napi::Persistent(info[1].As<Napi::Function>());
  context_ = std::make_unique<Napi::AsyncContext>(env, "blockferry:wire");
}

WireObject::~WireObject() { end(); }

void WireObject::end() {
  if (poll_ == nullptr) return;
  FdPoll* poll = poll_;
  poll_ = nullptr;
  poll->close();
  // The function holds the user, and that holds this object: neither would ever be collected.
  onReady_.Reset();
}

// The peer hears of it also where an engine has a copy of the socket and is stuck with it.
void WireObject::close(const Napi::CallbackInfo&) {
  if (poll_ != nullptr) ::shutdown(poll_->fd(), SHUT_RDWR);
  end();
}

Napi::Value WireObject::release(const Napi::CallbackInfo& info) {
  const int fd = poll_ == nullptr ? -EBADF : duplicate(poll_->fd());
  end();
  return Napi::Number::New(info.Env(), fd);
}

void WireObject::watch(const Napi::CallbackInfo& info) {
  if (poll_ == nullptr) return;
  const int readable = info[0].As<Napi::Boolean>() ? UV_READABLE : 0;
  const int writable = info[1].As<Napi::Boolean>() ? UV_WRITABLE : 0;
  poll_->watch(readable | writable);
}

Napi::Value WireObject::shutdown(const Napi::CallbackInfo& info) {
  const int error = poll_ == nullptr ? -EBADF : ::shutdown(poll_->fd(), SHUT_WR) == 0 ? 0 : -errno;
  return Napi::Number::New(info.Env(), error);
}

Napi::Value WireObject::receive(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (poll_ == nullptr) return Napi::Number::New(env, -EBADF);
  auto bytes = info[0].As<Napi::Uint8Array>();
  const size_t from = info[1].As<Napi::Number>().Uint32Value();
  const size_t to = info[2].As<Napi::Number>().Uint32Value();
  if (from >= to || to > bytes.ByteLength()) return Napi::Number::New(env, -EINVAL);
  ssize_t got = -1;
  do got = ::recv(poll_->fd(), bytes.Data() + from, to - from, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  return Napi::Number::New(env, got < 0 ? -errno : static_cast<double>(got));
}

Napi::Value WireObject::send(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (poll_ == nullptr) return Napi::Number::New(env, -EBADF);
  iovec pieces[kPieces];
  const int64_t count = collectPieces(info[0].As<Napi::Array>(), info[1].As<Napi::Number>().Uint32Value(),
                                      info[2].As<Napi::Number>().Uint32Value(), pieces);
  if (count < 0) return Napi::Number::New(env, static_cast<double>(count));
  return Napi::Number::New(env, static_cast<double>(sendLocal(poll_->fd(), pieces, static_cast<size_t>(count), {})));
}

// What is called may close the wire, and then let go of it: it is held while something of it still runs.
void WireObject::ready(int events) {
  Napi::HandleScope scope(Env());
  [[maybe_unused]] const Napi::Object self = Value();
  const auto flag = [&](int bit) { return Napi::Boolean::New(Env(), (events & bit) != 0); };
  callFromLoop(Env(), *context_, onReady_, {flag(UV_READABLE), flag(UV_WRITABLE)});
}

}  // namespace blockferry
