// SPDX-License-Identifier: Apache-2.0
// See pages.h.
#include "pages.h"

#include <cstring>

#include "crc32c.h"
#include "engine-object.h"

namespace blockferry {

namespace {

double numberAt(const Napi::CallbackInfo& info, size_t index) { return info[index].As<Napi::Number>().DoubleValue(); }

// 0: the piece is not made of such pages.
size_t pagesIn(const Piece& piece, double pageSize) {
  if (!(pageSize >= 1 && pageSize <= static_cast<double>(piece.length))) return 0;
  const auto page = static_cast<size_t>(pageSize);
  return piece.length % page == 0 ? piece.length / page : 0;
}

}  // namespace

Napi::Value pageDigests(const Napi::CallbackInfo& info) {
  EngineObject* const engine = EngineObject::Unwrap(info[0].As<Napi::Object>());
  const double pageSize = numberAt(info, 4);
  auto digests = info[5].As<Napi::Uint32Array>();
  const double first = numberAt(info, 6);
  Piece piece;
  const bool there = engine->place(numberAt(info, 1), numberAt(info, 2), numberAt(info, 3), piece);
  const size_t pages = there ? pagesIn(piece, pageSize) : 0;
  const bool room = first >= 0 && first + static_cast<double>(pages) <= static_cast<double>(digests.ElementLength());
  if (pages == 0 || !room) return Napi::Boolean::New(info.Env(), false);
  const size_t page = piece.length / pages;
  uint32_t* const into = digests.Data() + static_cast<size_t>(first);
  for (size_t index = 0; index < pages; ++index) into[index] = crc32c(piece.data + index * page, page);
  return Napi::Boolean::New(info.Env(), true);
}

Napi::Value pageDifferences(const Napi::CallbackInfo& info) {
  EngineObject* const engine = EngineObject::Unwrap(info[0].As<Napi::Object>());
  const double length = numberAt(info, 3);
  Piece one;
  Piece other;
  if (!engine->place(numberAt(info, 1), 0, length, one)) return info.Env().Undefined();
  if (!engine->place(numberAt(info, 2), 0, length, other)) return info.Env().Undefined();
  const size_t pages = pagesIn(one, numberAt(info, 4));
  if (pages == 0) return info.Env().Undefined();
  const size_t page = one.length / pages;
  auto bits = Napi::Uint8Array::New(info.Env(), (pages + 7) / 8);
  for (size_t index = 0; index < pages; ++index) {
    const size_t at = index * page;
    if (std::memcmp(one.data + at, other.data + at, page) == 0) continue;
    bits.Data()[index >> 3] |= static_cast<uint8_t>(1U << (index & 7));
  }
  return bits;
}

Napi::Value checksum(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const auto* const data = reinterpret_cast<const std::byte*>(bytes.Data());
  const bool byTable = info[1].As<Napi::Boolean>();
  const uint32_t before = info[2].As<Napi::Number>().Uint32Value();
  const uint32_t crc = byTable ? crc32cByTable(data, bytes.ByteLength(), before) : crc32c(data, bytes.ByteLength(), before);
  return Napi::Number::New(info.Env(), crc);
}

}  // namespace blockferry
