// How many objects of a class exist: lets a test see that a closed engine leaves nothing behind. Knows nothing about them.
// Invariant: the count is that of constructed, not yet destroyed objects, copies and moved-from ones included.
#pragma once
#include <atomic>
#include <cstdint>

namespace penstock {

template <class T>
class Counted {
 public:
  Counted() { ++count_; }
  Counted(const Counted&) { ++count_; }
  Counted& operator=(const Counted&) = default;
  ~Counted() { --count_; }
  static int64_t alive() { return count_.load(); }

 private:
  inline static std::atomic<int64_t> count_{0};
};

}  // namespace penstock
