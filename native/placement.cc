// Affinity and memory policy by the system's own calls: no library for them is needed. Knows nothing about pools or weights.
#include "placement.h"

#include <climits>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace penstock {

#if defined(__linux__)
namespace {

constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of <linux/mempolicy.h>
constexpr int kMaxNodes = 1024;

std::vector<int> allowed_here() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

}  // namespace

bool bind_thread(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus)
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

BoundHere::BoundHere(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  before_ = allowed_here();
  if (!before_.empty()) bind_thread(cpus);  // never what could not be undone
}

bool interleave(void* memory, size_t bytes, const std::vector<int>& nodes) {
  constexpr int bits = sizeof(unsigned long) * CHAR_BIT;
  unsigned long mask[kMaxNodes / bits] = {};
  for (const int node : nodes) {
    if (node < 0 || node >= kMaxNodes) return false;
    mask[node / bits] |= 1UL << (node % bits);
  }
  return ::syscall(SYS_mbind, memory, bytes, kInterleave, mask, static_cast<unsigned long>(kMaxNodes), 0UL) == 0;
}
#else
bool bind_thread(const std::vector<int>&) { return false; }
BoundHere::BoundHere(const std::vector<int>&) {}
bool interleave(void*, size_t, const std::vector<int>&) { return false; }
#endif

BoundHere::~BoundHere() {
  if (!before_.empty()) bind_thread(before_);
}

}  // namespace penstock
