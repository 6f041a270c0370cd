// SPDX-License-Identifier: Apache-2.0
// See descriptors-object.h.
#include "descriptors-object.h"

#include "local-socket.h"

namespace blockferry {

namespace {

int numberOf(const Napi::CallbackInfo& info) { return info[0].As<Napi::Number>().Int32Value(); }

}  // namespace

Napi::Function DescriptorsObject::define(Napi::Env env) {
  return DefineClass(env, "Descriptors",
                     {
                         InstanceMethod<&DescriptorsObject::accessMode>("accessMode"),
                         InstanceMethod<&DescriptorsObject::duplicate>("duplicate"),
                         InstanceMethod<&DescriptorsObject::referenceTo>("referenceTo"),
                         InstanceMethod<&DescriptorsObject::isLocalStream>("isLocalStream"),
                         InstanceMethod<&DescriptorsObject::listenLocal>("listenLocal"),
                         InstanceMethod<&DescriptorsObject::localPair>("localPair"),
                         InstanceMethod<&DescriptorsObject::close>("close"),
                     });
}

DescriptorsObject::DescriptorsObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DescriptorsObject>(info) {}

Napi::Value DescriptorsObject::accessMode(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), blockferry::accessMode(numberOf(info)));
}

Napi::Value DescriptorsObject::duplicate(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), blockferry::duplicate(numberOf(info)));
}

Napi::Value DescriptorsObject::referenceTo(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), blockferry::referenceTo(numberOf(info)));
}

Napi::Value DescriptorsObject::isLocalStream(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), blockferry::isLocalStream(numberOf(info)));
}

Napi::Value DescriptorsObject::listenLocal(const Napi::CallbackInfo& info) {
  const int64_t fd = blockferry::listenLocal(info[0].As<Napi::String>().Utf8Value());
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

Napi::Value DescriptorsObject::localPair(const Napi::CallbackInfo& info) {
  int pair[2];
  const int failed = blockferry::localPair(pair);
  if (failed < 0) return Napi::Number::New(info.Env(), failed);
  auto list = Napi::Array::New(info.Env(), 2);
  for (uint32_t index = 0; index < 2; ++index) list.Set(index, pair[index]);
  return list;
}

void DescriptorsObject::close(const Napi::CallbackInfo& info) { closer_->close(numberOf(info)); }

}  // namespace blockferry
