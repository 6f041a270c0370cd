// SPDX-License-Identifier: Apache-2.0
// See http-lane.h.
#include "http-lane.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

#include "verbs.h"

namespace blockferry {

namespace {

// Digits of 2^53, and one more: offsets have no more.
constexpr size_t kMostDigits = 16;

// As in `Sun, 06 Nov 1994 08:49:37 GMT`.
void formatDate(int64_t second, char* into) {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const time_t time = second;
  tm date{};
  gmtime_r(&time, &date);
  char text[64];
  std::snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[date.tm_wday], date.tm_mday,
                kMonths[date.tm_mon], date.tm_year + 1900, date.tm_hour, date.tm_min, date.tm_sec);
  std::memcpy(into, text, kDateLength);
}

}  // namespace

HttpLane::HttpLane(HttpTerms terms) : Lane(terms.idleMs), terms_(std::move(terms)) {
  size_t longest = 2 * kMostDigits;
  for (const std::string& part : terms_.head) longest += part.size();
  // One byte more shows that there is another request behind.
  inbox_.resize(longest + (terms_.writes ? static_cast<size_t>(terms_.each) : 0) + 1);
}

std::vector<std::byte> HttpLane::rest(const Request&) const {
  const auto* const bytes = reinterpret_cast<const std::byte*>(inbox_.data());
  return {bytes, bytes + got_};
}

int64_t HttpLane::receive(const Request& request) {
  return retry([&] {
    return ::recv(request.to->fd.get(), inbox_.data() + got_, inbox_.size() - got_, MSG_DONTWAIT);
  });
}

bool HttpLane::serveOne(Request& request, const Ending& ending) {
  if (places_.size() == kMostPlaces) return false;
  Asked asked{terms_.writes, 0, terms_.each};
  for (;;) {
    size_t end = 0;
    const Found found = parse(request, asked.offset, end);
    const size_t whole = end + (asked.writes ? static_cast<size_t>(asked.length) : 0);
    if (found == Found::other || (found == Found::whole && got_ > whole)) return false;
    if (found == Found::whole && got_ == whole) {
      if (asked.writes) std::memcpy(request.data, inbox_.data() + end, static_cast<size_t>(asked.length));
      break;
    }
    if (got_ == inbox_.size()) return false;
    const int64_t received = receiveMore(request, got_ == 0, ending);
    if (received == 0) return false;
    got_ += static_cast<size_t>(received);
  }
  return !isCalledBack() && perform(request, asked) && answer(request, asked);
}

// Where the request begins, and where its head ends.
HttpLane::Found HttpLane::parse(const Request& request, int64_t& offset, size_t& end) const {
  int64_t last = 0;
  size_t at = 0;
  Found found = literal(terms_.head[0], at);
  if (found == Found::whole) found = number(offset, at);
  if (found == Found::whole) found = literal(terms_.head[1], at);
  if (found == Found::whole) found = number(last, at);
  if (found == Found::whole) found = literal(terms_.head[2], at);
  if (found != Found::whole) return found;
  end = at;
  const int64_t align = request.file->requestAlign;
  const bool inside = offset <= terms_.length - terms_.each && last - offset + 1 == terms_.each;
  return inside && offset % align == 0 && terms_.each % align == 0 ? Found::whole : Found::other;
}

HttpLane::Found HttpLane::literal(const std::string& text, size_t& at) const {
  const size_t there = std::min(text.size(), got_ - at);
  if (std::memcmp(inbox_.data() + at, text.data(), there) != 0) return Found::other;
  at += there;
  return there == text.size() ? Found::whole : Found::part;
}

// As it is written in replies: without zeroes before it.
HttpLane::Found HttpLane::number(int64_t& value, size_t& at) const {
  value = 0;
  const size_t from = at;
  for (; at < got_ && inbox_[at] >= '0' && inbox_[at] <= '9'; at++) {
    if (at - from == kMostDigits || (at > from && value == 0)) return Found::other;
    value = value * 10 + (inbox_[at] - '0');
  }
  if (at == got_) return Found::part;
  return at > from ? Found::whole : Found::other;
}

// False: the lane ends here.
bool HttpLane::answer(const Request& request, const Asked& asked) {
  formatReply(asked);
  places_.push_back(static_cast<double>(asked.offset));
  const iovec parts[2] = {{replyHead_.data(), replyHead_.size()},
                          {request.data, asked.writes ? 0 : static_cast<size_t>(asked.length)}};
  // Who has asked for more before this was answered has several under way, and is better off where they are done at once.
  got_ = 0;
  const int64_t more = receive(request);
  got_ = more > 0 ? static_cast<size_t>(more) : 0;
  return send(request, parts) && more == -EAGAIN;
}

void HttpLane::formatReply(const Asked& asked) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != second_) {
    second_ = now.tv_sec;
    formatDate(second_, terms_.reply[0].data() + terms_.dateAt);
  }
  replyHead_ = terms_.reply[0];
  if (terms_.reply[1].empty()) return;
  replyHead_ += std::to_string(asked.offset);
  replyHead_ += terms_.reply[1];
  replyHead_ += std::to_string(asked.offset + asked.length - 1);
  replyHead_ += terms_.reply[2];
}

}  // namespace blockferry
