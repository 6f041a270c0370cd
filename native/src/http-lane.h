// SPDX-License-Identifier: Apache-2.0
// A lane for an HTTP client whose requests differ in nothing but the place they name. JavaScript has understood one of them and
// says what stands before, between and behind its two numbers, and how the reply looks; a head that is not so to the byte
// ends the lane. So nothing of HTTP has to be known here but how dates are written.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "lane.h"

namespace blockferry {

// Of `Sun, 06 Nov 1994 08:49:37 GMT`.
constexpr size_t kDateLength = 29;

struct HttpTerms {
  bool writes;
  // Of each request.
  int64_t each;
  // What may be asked for: the first so many bytes of the file.
  int64_t length;
  int idleMs;
  // Of the head of a request, around its first and last byte.
  std::array<std::string, 3> head;
  // Of the reply: its head is the first, or all three with the same numbers between them where there are more.
  std::array<std::string, 3> reply;
  // Where the first part of it has the date.
  size_t dateAt;
};

class HttpLane final : public Lane {
 public:
  explicit HttpLane(HttpTerms terms);

 private:
  // Requests that are served before JavaScript is told where they were.
  static constexpr size_t kMostPlaces = 8192;

  enum class Found { whole, part, other };

  bool serveOne(Request& request, const Ending& ending) override;
  std::vector<std::byte> rest(const Request& request) const override;
  int64_t receive(const Request& request) override;

  Found parse(const Request& request, int64_t& offset, size_t& end) const;
  Found literal(const std::string& text, size_t& at) const;
  Found number(int64_t& value, size_t& at) const;
  bool answer(const Request& request, const Asked& asked);
  void formatReply(const Asked& asked);

  HttpTerms terms_;
  std::vector<char> inbox_;
  size_t got_ = 0;
  std::string replyHead_;
  int64_t second_ = 0;
};

}  // namespace blockferry
