// SPDX-License-Identifier: Apache-2.0
// See scanner-object.h.
#include "scanner-object.h"

#include <algorithm>

#include "channel-scanner.h"
#include "engine-object.h"
#include "page-scanner.h"
#include "verbs.h"

namespace blockferry {

namespace {

constexpr uint32_t kBlockFields = 5;
constexpr size_t kMostName = 255;
constexpr double kStops = 8;

double numberAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().DoubleValue(); }

bool isPageSize(double size, size_t slotSize) {
  if (!(size > static_cast<double>(kRecordFlags) && size <= static_cast<double>(slotSize))) return false;
  const auto whole = static_cast<uint64_t>(size);
  return static_cast<double>(whole) == size && (whole & (whole - 1)) == 0;
}

}  // namespace

Napi::Function ScannerObject::define(Napi::Env env) {
  return DefineClass(env, "Scanner",
                     {
                         InstanceMethod<&ScannerObject::gatherInto>("gatherInto"),
                         InstanceMethod<&ScannerObject::scan>("scan"),
                         InstanceMethod<&ScannerObject::scanApart>("scanApart"),
                         InstanceMethod<&ScannerObject::inPlace>("inPlace"),
                         InstanceMethod<&ScannerObject::take>("take"),
                         InstanceMethod<&ScannerObject::delta>("delta"),
                         InstanceMethod<&ScannerObject::problem>("problem"),
                         InstanceMethod<&ScannerObject::counts>("counts"),
                         InstanceMethod<&ScannerObject::seen>("seen"),
                         InstanceMethod<&ScannerObject::within>("within"),
                         InstanceMethod<&ScannerObject::syncs>("syncs"),
                     });
}

ScannerObject::ScannerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ScannerObject>(info) {
  engine_ = EngineObject::Unwrap(info[0].As<Napi::Object>());
  keep(info[0].As<Napi::Object>());
  Gathering::Setup setup{};
  std::string problem;
  const bool sound = setUp(info, setup, problem);
  if (!sound) Napi::RangeError::New(info.Env(), problem).ThrowAsJavaScriptException();
  else if (info[1].As<Napi::Boolean>()) scanner_ = std::make_unique<ChannelScanner>(std::move(setup));
  else scanner_ = std::make_unique<PageScanner>(std::move(setup));
}

void ScannerObject::keep(const Napi::Object& object) { kept_.push_back(Napi::Persistent(object)); }

bool ScannerObject::setUp(const Napi::CallbackInfo& info, Gathering::Setup& setup, std::string& problem) {
  const size_t slotSize = engine_->slotSize();
  const double pageSize = numberAt(info, 2);
  problem = "pages of " + std::to_string(pageSize) + " bytes";
  if (!isPageSize(pageSize, slotSize)) return false;
  setup.pageSize = static_cast<uint32_t>(pageSize);
  const auto list = info[3].As<Napi::Array>();
  for (uint32_t at = 0; at < list.Length(); at += kBlockFields) {
    problem = "block " + std::to_string(at / kBlockFields) + " has no memory for its pages, or is not made of pages";
    if (!addBlock(list, at, setup.pageSize, setup.blocks)) return false;
  }
  setup.slotSize = info[4].As<Napi::Boolean>() ? slotSize : 0;
  auto pieces = info[5].As<Napi::Float64Array>();
  problem = "no room for the pieces of a slot";
  if (setup.slotSize > 0 && pieces.ElementLength() < slotSize / setup.pageSize * 2) return false;
  keep(pieces);
  setup.pieces = pieces.Data();
  problem.clear();
  return true;
}

bool ScannerObject::addBlock(const Napi::Array& list, uint32_t at, uint32_t pageSize,
                             std::vector<ScannedBlock>& blocks) {
  ScannedBlock block;
  block.name = list.Get(at).As<Napi::String>().Utf8Value();
  const double length = list.Get(at + 1).As<Napi::Number>().DoubleValue();
  const double place = list.Get(at + 2).As<Napi::Number>().DoubleValue();
  if (!(length >= 0 && place >= 0 && length + place <= kMaxOffset) || block.name.size() > kMostName) return false;
  block.length = static_cast<uint64_t>(length);
  block.place = static_cast<uint64_t>(place);
  const uint64_t pages = block.length / pageSize;
  auto bitmap = list.Get(at + 3).As<Napi::Uint8Array>();
  if (block.length % pageSize != 0 || bitmap.ByteLength() < (pages + 7) / 8) return false;
  keep(bitmap);
  block.bitmap = bitmap.Data();
  const Napi::Value digests = list.Get(at + 4);
  if (!digests.IsUndefined()) {
    auto array = digests.As<Napi::Uint32Array>();
    if (array.ElementLength() < pages) return false;
    keep(array);
    block.digests = array.Data();
  }
  blocks.push_back(std::move(block));
  return true;
}

Napi::Value ScannerObject::gatherInto(const Napi::CallbackInfo& info) {
  Piece piece;
  const auto slotSize = static_cast<double>(engine_->slotSize());
  const bool there = engine_->place(numberAt(info, 0), 0, slotSize, piece);
  return Napi::Boolean::New(info.Env(), there && scanner_->pages.gatherInto(std::move(piece.memory), piece.data));
}

Napi::Value ScannerObject::scan(const Napi::CallbackInfo& info) {
  Piece piece;
  if (!engine_->place(numberAt(info, 0), numberAt(info, 1), numberAt(info, 2), piece)) {
    return Napi::Number::New(info.Env(), -1);
  }
  ScanInput input{piece.data, piece.data + piece.length};
  const ScanStop stop = scanner_->scan(input, input);
  const auto taken = static_cast<double>(input.at - piece.data);
  return Napi::Number::New(info.Env(), taken * kStops + static_cast<double>(stop));
}

Napi::Value ScannerObject::scanApart(const Napi::CallbackInfo& info) {
  Piece piece;
  const auto bytes = info[3].As<Napi::Uint8Array>();
  const double from = numberAt(info, 4);
  const bool there = engine_->place(numberAt(info, 0), numberAt(info, 1), numberAt(info, 2), piece);
  if (!there || !(from >= 0 && from <= static_cast<double>(bytes.ByteLength()))) return info.Env().Undefined();
  const auto* const first = reinterpret_cast<const std::byte*>(bytes.Data());
  const std::byte* const begin = first + static_cast<size_t>(from);
  ScanInput heads{begin, first + bytes.ByteLength()};
  ScanInput data{piece.data, piece.data + piece.length};
  const ScanStop stop = scanner_->scan(heads, data);
  auto list = Napi::Array::New(info.Env(), 3);
  list.Set(uint32_t{0}, static_cast<double>(data.at - piece.data));
  list.Set(uint32_t{1}, static_cast<double>(heads.at - begin));
  list.Set(uint32_t{2}, static_cast<uint32_t>(stop));
  return list;
}

Napi::Value ScannerObject::inPlace(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), scanner_->inPlace());
}

Napi::Value ScannerObject::take(const Napi::CallbackInfo& info) {
  const Gathering::Taken taken = scanner_->pages.take();
  auto list = Napi::Array::New(info.Env(), 2);
  list.Set(uint32_t{0}, static_cast<double>(taken.pieces));
  list.Set(uint32_t{1}, static_cast<double>(taken.length));
  return list;
}

Napi::Value ScannerObject::delta(const Napi::CallbackInfo& info) {
  const Delta delta = scanner_->delta();
  auto bytes = Napi::Uint8Array::New(info.Env(), delta.length);
  std::copy_n(reinterpret_cast<const uint8_t*>(delta.data), delta.length, bytes.Data());
  auto list = Napi::Array::New(info.Env(), 3);
  list.Set(uint32_t{0}, delta.block);
  list.Set(uint32_t{1}, static_cast<double>(delta.offset));
  list.Set(uint32_t{2}, bytes);
  return list;
}

Napi::Value ScannerObject::problem(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), scanner_->problem());
}

Napi::Value ScannerObject::counts(const Napi::CallbackInfo& info) {
  const ScanCounts& counts = scanner_->pages.counts;
  auto list = Napi::Array::New(info.Env());
  uint32_t index = 0;
  for (const uint64_t count : {counts.zero, counts.normal, counts.delta, counts.foundZero, counts.walks}) {
    list.Set(index++, static_cast<double>(count));
  }
  return list;
}

Napi::Value ScannerObject::seen(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), scanner_->pages.seen(info[0].As<Napi::Number>().Uint32Value()));
}

Napi::Value ScannerObject::within(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), scanner_->within());
}

Napi::Value ScannerObject::syncs(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(scanner_->syncs()));
}

Napi::Value pageBits(const Napi::CallbackInfo& info) {
  EngineObject* const engine = EngineObject::Unwrap(info[0].As<Napi::Object>());
  const double pageSize = numberAt(info, 4);
  Piece piece;
  if (!engine->place(numberAt(info, 1), numberAt(info, 2), numberAt(info, 3), piece)) return info.Env().Undefined();
  // A run of slots is longer than one.
  if (!isPageSize(pageSize, std::max(piece.length, engine->slotSize()))) return info.Env().Undefined();
  const auto page = static_cast<size_t>(pageSize);
  if (piece.length % page != 0) return info.Env().Undefined();
  const size_t pages = piece.length / page;
  auto bits = Napi::Uint8Array::New(info.Env(), (pages + 7) / 8);
  for (size_t index = 0; index < pages; ++index) {
    if (!isZero(piece.data + index * page, page)) bits.Data()[index >> 3] |= static_cast<uint8_t>(1U << (index & 7));
  }
  return bits;
}

}  // namespace blockferry
