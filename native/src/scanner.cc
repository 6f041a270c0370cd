// SPDX-License-Identifier: Apache-2.0
// See scanner.h.
#include "scanner.h"

namespace blockferry {

namespace {
constexpr const char* kDigits = "0123456789abcdef";
}

std::string quoted(std::string_view name) {
  std::string text = "'";
  for (const char each : name) {
    const auto byte = static_cast<unsigned char>(each);
    if (byte >= 0x20 && byte < 0x7f) text += each;
    else text += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text + "'";
}

std::string hex(uint64_t value) {
  std::string text;
  for (; value > 0 || text.empty(); value >>= 4) text.insert(text.begin(), kDigits[value & 15]);
  return "0x" + text;
}

}  // namespace blockferry
