// SPDX-License-Identifier: Apache-2.0
// See nbd-lane.h. Headers and replies as in protocol/nbd/request.ts and reply.ts.
#include "nbd-lane.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "big-endian.h"
#include "verbs.h"

namespace blockferry {

namespace {

constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;
constexpr uint32_t kChunkMagic = 0x668e33ef;
constexpr uint32_t kExtendedChunkMagic = 0x6e8a278c;

constexpr uint16_t kRead = 0;
constexpr uint16_t kWrite = 1;
constexpr uint16_t kPayloadFlag = 1 << 5;

constexpr uint16_t kDone = 1;
constexpr uint16_t kNone = 0;
constexpr uint16_t kOffsetData = 1;
constexpr uint16_t kOffsetHole = 2;

// Where they stand in a request.
constexpr size_t kCookieAt = 8;
constexpr size_t kOffsetAt = 16;
constexpr size_t kLengthAt = 24;

}  // namespace

std::vector<std::byte> NbdLane::rest(const Request& request) const {
  const size_t inHead = std::min(got_, headLength());
  std::vector<std::byte> bytes(head_.data(), head_.data() + inHead);
  bytes.insert(bytes.end(), request.data, request.data + (got_ - inHead));
  return bytes;
}

// False: the lane ends here.
bool NbdLane::serveOne(Request& request, const Ending& ending) {
  Asked asked{};
  if (!gather(request, headLength(), ending) || !parse(request, asked)) return false;
  const size_t whole = headLength() + (asked.writes ? static_cast<size_t>(asked.length) : 0);
  if (!gather(request, whole, ending) || got_ != whole) return false;
  return perform(request, asked) && answer(request, asked);
}

// Until so many bytes of the client are here, or more. False: it is called back, or the client is at an end or idle.
bool NbdLane::gather(const Request& request, size_t wanted, const Ending& ending) {
  while (got_ < wanted) {
    const int64_t received = receiveMore(request, got_ == 0, ending);
    if (received == 0) return false;
    got_ += static_cast<size_t>(received);
  }
  return !isCalledBack();
}

// Bytes, 0 at the end, or -errno. The data of a write comes to where it is written from.
int64_t NbdLane::receive(const Request& request) {
  const size_t inHead = std::min(got_, headLength());
  const size_t inData = got_ - inHead;
  iovec parts[] = {{head_.data() + inHead, headLength() - inHead},
                   {request.data + inData, static_cast<size_t>(request.length) - inData}};
  msghdr message{};
  message.msg_iov = inHead == headLength() ? parts + 1 : parts;
  message.msg_iovlen = inHead == headLength() ? 1 : 2;
  return retry([&] { return ::recvmsg(request.to->fd.get(), &message, MSG_DONTWAIT); });
}

// False: not for the lane.
bool NbdLane::parse(const Request& request, Asked& asked) const {
  const bool extended = terms_.replies == ReplyStyle::extended;
  if (bigEndian32(head_.data()) != (extended ? kExtendedRequestMagic : kRequestMagic)) return false;
  const uint16_t flags = bigEndian16(head_.data() + 4);
  const uint16_t command = bigEndian16(head_.data() + 6);
  if (command != kRead && command != kWrite) return false;
  asked.writes = command == kWrite;
  if (asked.writes && !terms_.writable) return false;
  if (flags != 0 && !(asked.writes && extended && flags == kPayloadFlag)) return false;
  const uint64_t offset = bigEndian64(head_.data() + kOffsetAt);
  const uint64_t length = extended ? bigEndian64(head_.data() + kLengthAt) : bigEndian32(head_.data() + kLengthAt);
  const auto size = static_cast<uint64_t>(terms_.length);
  if (length == 0 || length > static_cast<uint64_t>(request.length) || length > size || offset > size - length)
    return false;
  const uint64_t align = std::max(terms_.align, request.file->requestAlign);
  if (offset % align != 0 || length % align != 0) return false;
  asked.offset = static_cast<int64_t>(offset);
  asked.length = static_cast<int64_t>(length);
  return true;
}

// False: the lane ends here.
bool NbdLane::answer(const Request& request, const Asked& asked) {
  const int fd = request.to->fd.get();
  const auto length = static_cast<size_t>(asked.length);
  const bool hole = !asked.writes && terms_.replies != ReplyStyle::simple && isZero(request.data, length);
  std::byte head[kLongestReply];
  iovec parts[] = {{head, formatReply(asked, hole, head)}, {request.data, asked.writes || hole ? 0 : length}};
  // Who has asked for more before this was answered has several under way, and is better off where they are done at once.
  const int64_t more = retry([&] { return ::recv(fd, head_.data(), headLength(), MSG_DONTWAIT); });
  got_ = more > 0 ? static_cast<size_t>(more) : 0;
  return send(request, parts) && more == -EAGAIN;
}

// Its length.
size_t NbdLane::formatReply(const Asked& asked, bool hole, std::byte* into) const {
  const bool extended = terms_.replies == ReplyStyle::extended;
  std::memcpy(into + kCookieAt, head_.data() + kCookieAt, sizeof(uint64_t));
  if (terms_.replies == ReplyStyle::simple || (asked.writes && !extended)) {
    storeBigEndian32(kSimpleReplyMagic, into);
    storeBigEndian32(0, into + 4);
    return 16;
  }
  storeBigEndian32(extended ? kExtendedChunkMagic : kChunkMagic, into);
  storeBigEndian16(kDone, into + 4);
  storeBigEndian16(asked.writes ? kNone : hole ? kOffsetHole : kOffsetData, into + 6);
  const auto payload = static_cast<uint32_t>(asked.writes ? 0 : hole ? 12 : 8 + asked.length);
  std::byte* at = into + 16;
  if (extended) {
    std::memcpy(at, head_.data() + kOffsetAt, sizeof(uint64_t));
    storeBigEndian64(payload, at + 8);
    at += 16;
  } else {
    storeBigEndian32(payload, at);
    at += 4;
  }
  if (!asked.writes) {
    std::memcpy(at, head_.data() + kOffsetAt, sizeof(uint64_t));
    at += 8;
    if (hole) {
      storeBigEndian32(static_cast<uint32_t>(asked.length), at);
      at += 4;
    }
  }
  return static_cast<size_t>(at - into);
}

}  // namespace blockferry
