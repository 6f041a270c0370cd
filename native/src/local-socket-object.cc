// SPDX-License-Identifier: Apache-2.0
// See local-socket-object.h.
#include "local-socket-object.h"

#include <sys/socket.h>

#include <cerrno>

#include "byte-pieces.h"
#include "local-socket.h"
#include "loop-call.h"

namespace blockferry {

namespace {

// Bytes of one turn of the loop.
constexpr size_t kReadBytes = 64 * 1024;
}  // namespace

Napi::Function LocalSocketObject::define(Napi::Env env) {
  return DefineClass(env, "LocalSocket",
                     {
                         InstanceMethod<&LocalSocketObject::send>("send"),
                         InstanceMethod<&LocalSocketObject::takePassed>("takePassed"),
                         InstanceMethod<&LocalSocketObject::watch>("watch"),
                         InstanceMethod<&LocalSocketObject::shutdown>("shutdown"),
                         InstanceMethod<&LocalSocketObject::close>("close"),
                     });
}

LocalSocketObject::LocalSocketObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<LocalSocketObject>(info) {
  Napi::Env env = info.Env();
  UniqueFd fd(info[0].As<Napi::Number>().Int32Value());
  int error = 0;
  poll_ = FdPoll::open(env, std::move(fd), [this](int events) { ready(events); }, [this] { end(); }, error);
  if (poll_ == nullptr) {
    auto failure = Napi::Error::New(env, "cannot watch the socket");
    failure.Set("errno", Napi::Number::New(env, error));
    failure.ThrowAsJavaScriptException();
    return;
  }
  onRead_ = Napi::Persistent(info[1].As<Napi::Function>());
  onWritable_ = Napi::Persistent(info[2].As<Napi::Function>());
  context_ = std::make_unique<Napi::AsyncContext>(env, "blockferry:local-socket");
}

LocalSocketObject::~LocalSocketObject() { end(); }

void LocalSocketObject::end() {
  if (poll_ == nullptr) return;
  FdPoll* poll = poll_;
  poll_ = nullptr;
  poll->close();
  // The functions hold the stream, and that holds this object: neither would ever be collected.
  onRead_.Reset();
  onWritable_.Reset();
}

void LocalSocketObject::close(const Napi::CallbackInfo&) { end(); }

void LocalSocketObject::watch(const Napi::CallbackInfo& info) {
  if (poll_ == nullptr) return;
  const int readable = info[0].As<Napi::Boolean>() ? UV_READABLE : 0;
  const int writable = info[1].As<Napi::Boolean>() ? UV_WRITABLE : 0;
  poll_->watch(readable | writable);
}

Napi::Value LocalSocketObject::shutdown(const Napi::CallbackInfo& info) {
  const int error = poll_ == nullptr ? -EBADF : ::shutdown(poll_->fd(), SHUT_WR) == 0 ? 0 : -errno;
  return Napi::Number::New(info.Env(), error);
}

Napi::Value LocalSocketObject::send(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (poll_ == nullptr) return Napi::Number::New(env, -EBADF);
  iovec pieces[kPieces];
  const int64_t count = collectPieces(info[0].As<Napi::Array>(), info[1].As<Napi::Number>().Uint32Value(),
                                      info[2].As<Napi::Number>().Uint32Value(), pieces);
  if (count < 0) return Napi::Number::New(env, static_cast<double>(count));
  std::vector<int> passed;
  if (info[3].IsArray()) {
    const auto numbers = info[3].As<Napi::Array>();
    for (uint32_t index = 0; index < numbers.Length(); ++index) {
      passed.push_back(numbers.Get(index).As<Napi::Number>().Int32Value());
    }
  }
  return Napi::Number::New(env, static_cast<double>(sendLocal(poll_->fd(), pieces, static_cast<size_t>(count), passed)));
}

Napi::Value LocalSocketObject::takePassed(const Napi::CallbackInfo& info) {
  auto list = Napi::Array::New(info.Env(), passed_.size());
  for (uint32_t index = 0; index < passed_.size(); ++index) list.Set(index, passed_[index].release());
  passed_.clear();
  return list;
}

// What is called may close the socket, and then let go of it: it is held while something of it still runs.
void LocalSocketObject::ready(int events) {
  Napi::HandleScope scope(Env());
  [[maybe_unused]] const Napi::Object self = Value();
  if ((events & UV_WRITABLE) != 0 && poll_ != nullptr) call(onWritable_, {});
  if ((events & UV_READABLE) != 0 && poll_ != nullptr) read();
}

void LocalSocketObject::read() {
  Napi::Env env = Env();
  char bytes[kReadBytes];
  const int64_t got = receiveLocal(poll_->fd(), bytes, sizeof bytes, passed_);
  if (got > 0) {
    const auto copy = Napi::Buffer<char>::Copy(env, bytes, static_cast<size_t>(got));
    call(onRead_, {copy, Napi::Number::New(env, static_cast<double>(passed_.size()))});
  } else {
    call(onRead_, {Napi::Number::New(env, static_cast<double>(got)), Napi::Number::New(env, 0)});
  }
  passed_.clear();
}

void LocalSocketObject::call(const Napi::FunctionReference& function, std::initializer_list<napi_value> arguments) {
  callFromLoop(Env(), *context_, function, arguments);
}

}  // namespace blockferry
