// How many threads are worth starting. Knows nothing about the pool.
#pragma once

namespace penstock {

// Physical cores that this process may run on, at most what its cgroups' CPU limits allow, at least 1. `root` replaces "/" in tests.
int default_threads(const char* root);

}  // namespace penstock
