// SPDX-License-Identifier: Apache-2.0
// See own-group.h.
#include "own-group.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "schedule.h"

namespace blockferry {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 64 * 1024;

// Shared by the starter and the host until the start is announced.
struct Launch {
  std::vector<int> keep;
  std::function<void()> body;
  pid_t process = getpid();
  std::mutex lock;
  std::condition_variable announced;  // guards kind
  GroupKind kind = GroupKind::failed;
  bool done = false;

  void announce(GroupKind what) {
    std::lock_guard guard(lock);
    kind = what;
    done = true;
    announced.notify_all();
  }
};

#ifndef BLOCKFERRY_PLAIN_THREADS
void closeRange(unsigned first, unsigned last) {
  if (first > last || syscall(SYS_close_range, first, last, 0) == 0) return;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto end = static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, 1 << 20));
  for (unsigned fd = first; fd <= last && fd < end; ++fd) close(static_cast<int>(fd));
}

// Leader only. Standard streams become /dev/null, so that no image is opened under their numbers.
void keepOnly(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned from = 0;
  for (int fd : keep) {
    if (static_cast<unsigned>(fd) > from) closeRange(from, static_cast<unsigned>(fd) - 1);
    from = static_cast<unsigned>(fd) + 1;
  }
  closeRange(from, ~0U);
  for (int fd = 0; fd < 3; ++fd) {
    if (std::find(keep.begin(), keep.end(), fd) == keep.end()) open("/dev/null", O_RDWR);
  }
}

class Stack {
 public:
  Stack() {
    base_ = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (base_ != MAP_FAILED) mprotect(base_, kGuardBytes, PROT_NONE);
  }
  ~Stack() {
    if (base_ != MAP_FAILED) munmap(base_, kStackBytes + kGuardBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  bool valid() const { return base_ != MAP_FAILED; }
  void* top() const { return static_cast<char*>(base_) + kStackBytes + kGuardBytes; }

 private:
  void* base_ = MAP_FAILED;
};

int leader(void* argument) {
  auto* launch = static_cast<Launch*>(argument);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launch->process) _exit(0);  // the daemon ended before the line above
  prctl(PR_SET_NAME, "blockferry-io");
  scheduleForThroughput();
  keepOnly(std::move(launch->keep));
  std::function<void()> body = std::move(launch->body);
  body();
  body = nullptr;
  return 0;
}

// Host thread. False: clone was refused.
bool runInOwnGroup(Launch& launch) {
  Stack stack;
  if (!stack.valid()) return false;
  const pid_t pid = clone(leader, stack.top(), CLONE_VM | CLONE_FS | CLONE_SYSVSEM | CLONE_IO, &launch);
  if (pid < 0) return false;
  launch.announce(GroupKind::own);
  int status = 0;
  while (waitpid(pid, &status, __WCLONE) < 0 && errno == EINTR) continue;
  // A group that was killed alone may have died with a lock of this process: nothing can be trusted any more.
  if (WIFSIGNALED(status)) abort();
  return true;
}
#endif

void* host(void* argument) {
  const std::unique_ptr<std::shared_ptr<Launch>> holder(static_cast<std::shared_ptr<Launch>*>(argument));
  Launch& launch = **holder;
#ifndef BLOCKFERRY_PLAIN_THREADS
  if (runInOwnGroup(launch)) return nullptr;
#endif
  std::function<void()> body = std::move(launch.body);
  launch.announce(GroupKind::plain);
  body();
  return nullptr;
}

}  // namespace

GroupKind startOwnGroup(std::vector<int> keep, std::function<void()> body) {
  auto launch = std::make_shared<Launch>();
  launch->keep = std::move(keep);
  launch->body = std::move(body);

  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  auto holder = std::make_unique<std::shared_ptr<Launch>>(launch);
  pthread_t thread;
  const int refused = pthread_create(&thread, &attributes, host, holder.get());
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (refused != 0) return GroupKind::failed;
  holder.release();

  std::unique_lock guard(launch->lock);
  launch->announced.wait(guard, [&] { return launch->done; });
  return launch->kind;
}

}  // namespace blockferry
