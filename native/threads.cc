// Counts the cores this process may use, from its affinity mask, the cores' topology and the limits of its cgroups (v2 and v1).
// Invariant: the host's number of processors is used only where none of these can be read.
#include "threads.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace penstock {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

#if defined(__linux__)
// Cores in the affinity mask: processors whose lists of siblings begin alike are one core.
int allowed_cores(const std::string& root) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string name = std::to_string(cpu);
    const std::string siblings = first_line(root + "/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    const std::string leader = siblings.substr(0, siblings.find_first_of(",-"));
    cores.insert(leader.empty() ? name : leader);
  }
  return static_cast<int>(cores.size());
}
#else
int allowed_cores(const std::string&) { return 0; }
#endif

// Processors of "quota period" (microseconds), rounded up; 0 when there is no limit ("max", -1 or unreadable).
int processors(const std::string& quota, const std::string& period) {
  char* end = nullptr;
  const double q = std::strtod(quota.c_str(), &end);
  if (end == quota.c_str() || !(q > 0)) return 0;
  const double p = std::strtod(period.c_str(), &end);
  if (end == period.c_str() || !(p > 0) || q / p > 1e6) return 0;
  return std::max(1, static_cast<int>(q / p + 0.999));
}

int v2_limit(const std::string& folder) {
  std::istringstream line(first_line(folder + "/cpu.max"));
  std::string quota, period;
  line >> quota >> period;
  return processors(quota, period);
}

int v1_limit(const std::string& folder) {
  return processors(first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us"));
}

// The smallest limit of a cgroup and its ancestors, or 0.
int tightest(const std::string& base, std::string path, int (*limit)(const std::string&)) {
  int least = 0;
  for (int depth = 0; depth < 64; ++depth) {
    const int here = limit(base + path);
    if (here > 0) least = least == 0 ? here : std::min(least, here);
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty()) break;
    path.resize(slash);
  }
  return least;
}

// Lines of /proc/self/cgroup are "number:controllers:path"; version 2 has number 0 and no controllers.
int cgroup_limit(const std::string& root) {
  int least = 0;
  const auto take = [&least](int limit) {
    if (limit > 0) least = least == 0 ? limit : std::min(least, limit);
  };
  take(tightest(root + "/sys/fs/cgroup", "", v2_limit));
  for (const char* name : {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) take(tightest(root + name, "", v1_limit));
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) take(tightest(root + "/sys/fs/cgroup", path == "/" ? "" : path, v2_limit));
    else if (("," + controllers + ",").find(",cpu,") != std::string::npos)
      take(tightest(root + "/sys/fs/cgroup/" + controllers, path == "/" ? "" : path, v1_limit));
  }
  return least;
}

}  // namespace

int default_threads(const char* root) {
  std::string base = root;
  while (!base.empty() && base.back() == '/') base.pop_back();
  int count = allowed_cores(base);
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  const int limit = cgroup_limit(base);
  if (limit > 0) count = std::min(count, limit);
  return std::max(1, count);
}

}  // namespace penstock
