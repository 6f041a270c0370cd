// SPDX-License-Identifier: Apache-2.0
// What the daemon does with descriptors it was given, apart from handing them on.
// Closing one may wait for its storage (NFS and FUSE are asked at every close), so it is done by threads that do nothing else.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

namespace blockferry {

// O_RDONLY, O_WRONLY or O_RDWR; -EBADF also where it gives no access to contents (O_PATH). Any thread.
int accessMode(int fd);
// Another number of it, from 3 on, or -errno. Any thread.
int duplicate(int fd);
// A descriptor of the same file that gives no access: it can be opened anew by its /proc name, and closing it asks no
// storage. Or -errno. Any thread.
int referenceTo(int fd);

// Closes descriptors; its threads come when they are needed and go when there is nothing to do.
class Closer : public std::enable_shared_from_this<Closer> {
 public:
  // Any thread; returns at once.
  void close(int fd);

 private:
  static void* serve(void* self);
  void work();

  std::mutex lock_;  // guards all below
  std::condition_variable wake_;
  std::deque<int> queue_;
  int threads_ = 0;
  int idle_ = 0;
};

}  // namespace blockferry
