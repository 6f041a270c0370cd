// SPDX-License-Identifier: Apache-2.0
// See log-object.h.
#include "log-object.h"

namespace blockferry {

Napi::Function LogObject::define(Napi::Env env) {
  return DefineClass(env, "Log",
                     {
                         InstanceMethod<&LogObject::write>("write"),
                         InstanceMethod<&LogObject::flush>("flush"),
                         InstanceMethod<&LogObject::dropped>("dropped"),
                     });
}

LogObject::LogObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<LogObject>(info) {
  const auto room = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
  writer_ = std::make_shared<LogWriter>(room);
  const int error = writer_->start(info[0].As<Napi::Number>().Int32Value());
  if (error == 0) return;
  auto failure = Napi::Error::New(info.Env(), "cannot start the log writer");
  failure.Set("errno", Napi::Number::New(info.Env(), -error));
  failure.ThrowAsJavaScriptException();
}

LogObject::~LogObject() { writer_->stop(); }

Napi::Value LogObject::write(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), writer_->write(info[0].As<Napi::String>().Utf8Value()));
}

Napi::Value LogObject::flush(const Napi::CallbackInfo& info) {
  const std::chrono::milliseconds wait(info[0].As<Napi::Number>().Int64Value());
  return Napi::Boolean::New(info.Env(), writer_->flush(wait));
}

Napi::Value LogObject::dropped(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(writer_->dropped()));
}

}  // namespace blockferry
