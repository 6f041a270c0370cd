// SPDX-License-Identifier: Apache-2.0
// See engine-object.h. Results are in engine-results.cc.
#include "engine-object.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

#include "batch.h"
#include "page-records.h"

namespace blockferry {

namespace {

constexpr double kMaxSlot = 4294967295;          // slot numbers have 32 bits
constexpr size_t kMinTasks = 64;
// Of one compression: a cluster of 2 MiB in slots of 256 KiB, and its neighbours' sectors.
constexpr uint32_t kMaxPieces = 10;
constexpr double kMaxCoded = 64 << 20;
constexpr double kMaxPage = 1 << 30;
// Of pages in one request.
constexpr double kMaxCopied = 64 << 20;

double numberAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().DoubleValue(); }

uint32_t bitsAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().Uint32Value(); }

bool isRange(double offset, double length) {
  return offset >= 0 && length >= 0 && offset + length <= kMaxOffset;
}

}  // namespace

Napi::Function EngineObject::define(Napi::Env env) {
  return DefineClass(env, "Engine",
                     {
                         InstanceMethod<&EngineObject::submit>("submit"),
                         InstanceMethod<&EngineObject::submitPieces>("submitPieces"),
                         InstanceMethod<&EngineObject::submitPath>("submitPath"),
                         InstanceMethod<&EngineObject::submitPages>("submitPages"),
                         InstanceMethod<&EngineObject::submitFile>("submitFile"),
                         InstanceMethod<&EngineObject::submitCodec>("submitCodec"),
                         InstanceMethod<&EngineObject::submitLane>("submitLane"),
                         InstanceMethod<&EngineObject::submitHttpLane>("submitHttpLane"),
                         InstanceMethod<&EngineObject::laneCounts>("laneCounts"),
                         InstanceMethod<&EngineObject::callBack>("callBack"),
                         InstanceMethod<&EngineObject::takeSlots>("takeSlots"),
                         InstanceMethod<&EngineObject::takeRun>("takeRun"),
                         InstanceMethod<&EngineObject::giveSlots>("giveSlots"),
                         InstanceMethod<&EngineObject::groupBytes>("groupBytes"),
                         InstanceMethod<&EngineObject::trim>("trim"),
                         InstanceMethod<&EngineObject::oldest>("oldest"),
                         InstanceMethod<&EngineObject::stats>("stats"),
                         InstanceMethod<&EngineObject::shutStream>("shutStream"),
                         InstanceMethod<&EngineObject::endReading>("endReading"),
                         InstanceMethod<&EngineObject::stop>("stop"),
                     });
}

EngineObject::EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info) {
  Napi::Env env = info.Env();
  slots_ = std::make_unique<SlotPool>(static_cast<size_t>(numberAt(info, 1)), bitsAt(info, 2));
  groupBytes_.resize(slots_->groupCount());
  onFinished_ = Napi::Persistent(info[5].As<Napi::Function>());
  context_ = std::make_unique<Napi::AsyncContext>(env, "blockferry:io");
  const Limits limits{bitsAt(info, 3), static_cast<int64_t>(numberAt(info, 4))};
  if (!start(env, info[0].As<Napi::String>().Utf8Value(), limits)) return;
  pairs_ = Napi::Reference<Napi::Float64Array>::New(Napi::Float64Array::New(env, kDeliverAtOnce * 2), 1);
}

bool EngineObject::start(Napi::Env env, const std::string& kind, Limits limits) {
  poll_ = LoopPoll::open(env, [this] { deliver(); }, [this] { end(); });
  if (poll_ == nullptr) {
    Napi::Error::New(env, "no descriptor for the I/O engine").ThrowAsJavaScriptException();
    return false;
  }
  const size_t tasks = std::max(limits.maxRequests, kMinTasks);
  auto engine = kind == "io_uring" ? makeRingEngine(tasks, slots_->groupCount()) : makeThreadEngine(tasks);
  front_ = std::make_shared<IoFront>(std::move(engine), limits);
  const int error = front_->start(poll_->fd());
  if (error == 0) return true;
  front_.reset();
  end();
  const std::string reason = std::generic_category().message(-error);
  auto failure = Napi::Error::New(env, "cannot start the " + kind + " engine: " + reason);
  failure.Set("errno", Napi::Number::New(env, -error));
  failure.ThrowAsJavaScriptException();
  return false;
}

EngineObject::~EngineObject() { end(); }

// The environment or the object goes: nothing is waited for.
void EngineObject::end() {
  if (front_) front_->stop();
  if (poll_ == nullptr) return;
  LoopPoll* poll = poll_;
  poll_ = nullptr;
  poll->close();
  // The function holds the engine of JavaScript, and that holds this object: neither would ever be collected.
  onFinished_.Reset();
}

void EngineObject::shutStream(const Napi::CallbackInfo& info) {
  if (front_) front_->shutStream(numberAt(info, 0), bitsAt(info, 1));
}

void EngineObject::endReading(const Napi::CallbackInfo&) {
  if (front_) front_->endReading();
}

void EngineObject::stop(const Napi::CallbackInfo&) { end(); }

int EngineObject::accept(std::unique_ptr<Request> request) {
  if (poll_ == nullptr) return -ECANCELED;
  const int error = front_->submit(std::move(request));
  if (error == 0) poll_->hold(true);
  return error;
}

bool EngineObject::place(double slot, double slotOffset, double length, Piece& piece) {
  if (!(slot >= 0 && slot < kMaxSlot)) return false;
  const auto index = static_cast<uint32_t>(slot);
  const size_t room = slots_->lengthOf(index);
  if (room == 0 || !isRange(slotOffset, length) || slotOffset + length > static_cast<double>(room)) return false;
  piece.memory = slots_->groupOf(index);
  piece.data = piece.memory->data() + slots_->offsetOf(index) + static_cast<size_t>(slotOffset);
  piece.length = static_cast<size_t>(length);
  return true;
}

bool EngineObject::useSlot(Request& request, double slot, double slotOffset) {
  Piece piece;
  if (!place(slot, slotOffset, static_cast<double>(request.length), piece)) return false;
  request.memory = std::move(piece.memory);
  request.data = piece.data;
  return true;
}

bool EngineObject::addPieces(const Napi::Array& places, std::vector<Piece>& pieces) {
  const uint32_t count = places.Length() / 3;
  if (count == 0 || count > kMaxPieces || places.Length() % 3 != 0) return false;
  const auto at = [&](uint32_t index) { return places.Get(index).As<Napi::Number>().DoubleValue(); };
  pieces.resize(count);
  for (uint32_t index = 0; index < count; ++index) {
    Piece& piece = pieces[index];
    if (!place(at(index * 3), at(index * 3 + 1), at(index * 3 + 2), piece) || piece.length == 0) return false;
  }
  return true;
}

Napi::Value EngineObject::submit(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const double offset = numberAt(info, 3);
  const double length = numberAt(info, 4);
  const double a = numberAt(info, 5);
  const double b = numberAt(info, 6);
  if (!isRange(offset, length)) return refuse(EINVAL);
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  request->fileId = numberAt(info, 2);
  request->offset = static_cast<int64_t>(offset);
  request->length = static_cast<int64_t>(length);
  request->flags = bitsAt(info, 7);
  if (request->usesSlot() && !useSlot(*request, a, b)) return refuse(EINVAL);
  if (request->op == Op::receive) {
    const uint32_t pageSize = request->flags;
    const bool ofPackets = pageSize > kRecordFlags && pageSize <= slots_->slotSize() && (pageSize & (pageSize - 1)) == 0;
    if (request->length == 0 || (pageSize != 0 && !ofPackets)) return refuse(EINVAL);
    request->lingerMs = static_cast<int>(std::min<double>(offset, std::numeric_limits<int>::max()));
  }
  if (request->op == Op::extents) request->limit = static_cast<uint32_t>(std::clamp(a, 1.0, 1e6));
  if (request->op == Op::copyRange || request->op == Op::reflink) {
    if (!isRange(b, length)) return refuse(EINVAL);
    request->toFileId = a;
    request->toOffset = static_cast<int64_t>(b);
  }
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::submitPieces(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const auto list = info[3].As<Napi::Float64Array>();
  const size_t count = bitsAt(info, 8);
  if (count == 0 || count * 2 > list.ElementLength()) return refuse(EINVAL);
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  request->fileId = numberAt(info, 2);
  request->flags = bitsAt(info, 6);
  if (!request->isTransfer()) return refuse(EINVAL);
  const double* ranges = list.Data();
  double sum = 0;
  for (size_t index = 0; index < count * 2; index += 2) {
    if (!isRange(ranges[index], ranges[index + 1])) return refuse(EINVAL);
    sum += ranges[index + 1];
  }
  if (!isRange(0, sum)) return refuse(EINVAL);
  request->length = static_cast<int64_t>(sum);
  if (!useSlot(*request, numberAt(info, 4), numberAt(info, 5))) return refuse(EINVAL);
  std::vector<BatchPiece> pieces(count);
  std::byte* data = request->data;
  for (size_t index = 0; index < count; ++index) {
    const auto length = static_cast<int64_t>(ranges[index * 2 + 1]);
    pieces[index] = {index, static_cast<int64_t>(ranges[index * 2]), length, data};
    data += length;
  }
  request->pieces = std::make_shared<Batch>(*request, std::max(bitsAt(info, 7), 1U), std::move(pieces));
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::submitPages(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const auto list = info[3].As<Napi::Float64Array>();
  const size_t count = bitsAt(info, 4);
  const double pageSize = numberAt(info, 5);
  const double from = numberAt(info, 6);
  const double fromOffset = numberAt(info, 7);
  if (count * 2 > list.ElementLength() || !(pageSize <= kMaxPage) || !isRange(fromOffset, 0)) return refuse(EINVAL);
  std::vector<PageRun> runs;
  double sum = 0;
  for (const double* range = list.Data(); runs.size() < count; range += 2) {
    if (!isRange(range[0], range[1]) || !isRange(range[0] + fromOffset, range[1])) return refuse(EINVAL);
    runs.push_back({static_cast<int64_t>(range[0]), static_cast<int64_t>(range[1]), nullptr});
    sum += range[1];
  }
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  if (sum > kMaxCopied || !arePages(runs, static_cast<int64_t>(pageSize))) return refuse(EINVAL);
  request->length = static_cast<int64_t>(sum);
  const auto first = info[8].As<Napi::Uint8Array>();
  const auto* const bytes = reinterpret_cast<const std::byte*>(first.Data());
  request->heads.assign(bytes, bytes + first.ByteLength());
  const double stream = numberAt(info, 2);
  if (request->op == Op::sendFilePages) {
    request->fileId = from;
    request->toFileId = stream;
    request->offset = static_cast<int64_t>(fromOffset);
    request->flags = static_cast<uint32_t>(pageSize);
    for (const PageRun& run : runs) request->fileParts.push_back({0, run.offset, run.length});
    return Napi::Number::New(info.Env(), accept(std::move(request)));
  }
  request->fileId = stream;
  if (!useSlot(*request, from, fromOffset)) return refuse(EINVAL);
  std::byte* data = request->data;
  for (PageRun& run : runs) {
    run.data = data;
    data += run.length;
  }
  layOutPages(*request, runs, static_cast<int64_t>(pageSize));
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::submitFile(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const auto list = info[4].As<Napi::Float64Array>();
  const size_t count = bitsAt(info, 5);
  if (count == 0 || count * 3 > list.ElementLength()) return refuse(EINVAL);
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  request->fileId = numberAt(info, 2);
  request->toFileId = numberAt(info, 3);
  double heads = 0;
  for (const double* part = list.Data(); request->fileParts.size() < count; part += 3) {
    if (!isRange(part[1], part[2]) || part[2] < 1 || !isRange(heads, part[0])) return refuse(EINVAL);
    heads += part[0];
    request->fileParts.push_back(
        {static_cast<int64_t>(part[0]), static_cast<int64_t>(part[1]), static_cast<int64_t>(part[2])});
  }
  request->length = static_cast<int64_t>(heads);
  if (!useSlot(*request, numberAt(info, 6), numberAt(info, 7))) return refuse(EINVAL);
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::submitPath(const Napi::CallbackInfo& info) {
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  request->path = info[2].As<Napi::String>().Utf8Value();
  request->flags = bitsAt(info, 3);
  request->mode = bitsAt(info, 4);
  request->without = bitsAt(info, 5);
  request->toPath = info[6].As<Napi::String>().Utf8Value();
  // A name with a NUL in it would be cut there and be another file's.
  const auto isCut = [](const std::string& name) { return name.find('\0') != std::string::npos; };
  if (isCut(request->path) || isCut(request->toPath)) return Napi::Number::New(info.Env(), -EINVAL);
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::submitCodec(const Napi::CallbackInfo& info) {
  const auto refuse = [&](int error) { return Napi::Number::New(info.Env(), -error); };
  const double total = numberAt(info, 3);  // of a unit, where it compresses
  const double skip = numberAt(info, 4);  // of the result; where it compresses, where that begins
  auto request = std::make_unique<Request>();
  request->op = static_cast<Op>(bitsAt(info, 0));
  request->id = numberAt(info, 1);
  request->codec = static_cast<Codec>(bitsAt(info, 2));
  if (!addPieces(info[5].As<Napi::Array>(), request->from)) return refuse(EINVAL);
  if (!addPieces(info[6].As<Napi::Array>(), request->into)) return refuse(EINVAL);
  if (!(total >= 1 && total <= kMaxCoded)) return refuse(EINVAL);
  if (!isRange(skip, 0)) return refuse(EINVAL);
  request->length = static_cast<int64_t>(total);
  request->offset = static_cast<int64_t>(skip);
  if (request->op == Op::digest) request->flags = static_cast<uint32_t>(skip);
  if (request->op == Op::decompress) {
    double wanted = 0;
    for (const Piece& piece : request->into) wanted += static_cast<double>(piece.length);
    if (!isRange(skip, wanted) || skip + wanted > total) return refuse(EINVAL);
  }
  return Napi::Number::New(info.Env(), accept(std::move(request)));
}

Napi::Value EngineObject::takeSlots(const Napi::CallbackInfo& info) {
  std::vector<uint32_t> taken;
  if (poll_ != nullptr) slots_->take(bitsAt(info, 0), bitsAt(info, 1), taken);
  auto list = Napi::Array::New(info.Env(), taken.size());
  for (uint32_t index = 0; index < taken.size(); ++index) list.Set(index, taken[index]);
  return list;
}

Napi::Value EngineObject::takeRun(const Napi::CallbackInfo& info) {
  uint32_t first = 0;
  const uint32_t count = bitsAt(info, 0);
  if (poll_ == nullptr || count == 0 || !slots_->takeRun(count, bitsAt(info, 1), first)) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), first);
}

void EngineObject::giveSlots(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const uint32_t slot = list.Get(index).As<Napi::Number>().Uint32Value();
    if (slots_->give(slot)) continue;
    Napi::RangeError::New(info.Env(), "slot " + std::to_string(slot) + " is not taken").ThrowAsJavaScriptException();
    return;
  }
}

Napi::Value EngineObject::groupBytes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint32_t index = bitsAt(info, 0);
  if (index >= slots_->groupCount() || !slots_->group(index)) return env.Undefined();
  auto& kept = groupBytes_[index];
  if (!kept.IsEmpty()) return kept.Value();
  // The buffer holds the mapping, so it stays valid however long JavaScript keeps it.
  auto* holder = new std::shared_ptr<SlotGroup>(slots_->group(index));
  auto bytes = Napi::ArrayBuffer::New(
      env, (*holder)->data(), (*holder)->size(),
      [](Napi::Env, void*, std::shared_ptr<SlotGroup>* held) { delete held; }, holder);
  kept = Napi::Reference<Napi::ArrayBuffer>::New(bytes, 1);
  return bytes;
}

Napi::Value EngineObject::trim(const Napi::CallbackInfo& info) {
  for (const auto& group : slots_->trim()) {
    if (front_) front_->forget(group->index());
    auto& kept = groupBytes_[group->index()];
    if (kept.IsEmpty()) continue;
    kept.Value().Detach();
    kept.Reset();
  }
  return Napi::Number::New(info.Env(), slots_->mapped());
}

}  // namespace blockferry
