// SPDX-License-Identifier: Apache-2.0
// Lanes as JavaScript sees them: lent by a request, looked at and called back by its id.
#include <cerrno>

#include "engine-object.h"
#include "nbd-lane.h"

namespace blockferry {

namespace {

double numberAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().DoubleValue(); }

Napi::Value copied(Napi::Env env, const std::vector<std::byte>& bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

// Behind what is in the list.
void addCounts(Napi::Array list, const LaneCounts& counts) {
  for (const int64_t count :
       {counts.reads, counts.readBytes, counts.writes, counts.writeBytes, counts.from, counts.to}) {
    list.Set(list.Length(), static_cast<double>(count));
  }
}

}  // namespace

Napi::Value EngineObject::submitLane(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const auto bits = [&](size_t index) { return info[index].As<Napi::Number>().Uint32Value(); };
  const double length = numberAt(info, 7);
  const double room = numberAt(info, 6);
  if (!(length >= 0 && length <= kMaxOffset) || !(room >= 1) || bits(10) == 0) return refuse(EINVAL);
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bits(0));
  request->id = numberAt(info, 1);
  request->fileId = numberAt(info, 2);
  request->toFileId = numberAt(info, 3);
  request->length = static_cast<int64_t>(room);
  if (!useSlot(*request, numberAt(info, 4), numberAt(info, 5))) return refuse(EINVAL);
  const LaneTerms terms{static_cast<ReplyStyle>(bits(8)), info[9].As<Napi::Boolean>(), bits(10),
                        static_cast<int64_t>(length), info[11].As<Napi::Number>().Int32Value()};
  auto lane = std::make_shared<NbdLane>(terms);
  const double id = request->id;
  request->lane = lane;
  const int error = accept(std::move(request));
  if (error == 0) lanes_.emplace(id, std::move(lane));
  return Napi::Number::New(info.Env(), error);
}

Napi::Value EngineObject::laneCounts(const Napi::CallbackInfo& info) {
  const auto found = lanes_.find(numberAt(info, 0));
  auto list = Napi::Array::New(info.Env());
  addCounts(list, found == lanes_.end() ? LaneCounts{} : found->second->counts());
  return list;
}

void EngineObject::callBack(const Napi::CallbackInfo& info) {
  const auto found = lanes_.find(numberAt(info, 0));
  if (found != lanes_.end() && front_) front_->callBack(found->second);
}

Napi::Value EngineObject::endLane(const Request& request) {
  Napi::Env env = Env();
  auto list = Napi::Array::New(env);
  list.Set(uint32_t{0}, copied(env, request.lane->received()));
  list.Set(uint32_t{1}, copied(env, request.lane->unsent()));
  addCounts(list, request.lane->counts());
  return list;
}

}  // namespace blockferry
