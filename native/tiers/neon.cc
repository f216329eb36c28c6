// Tier neon: Advanced SIMD with dot products (Armv8.2-A). Compiled with that tier's flags only; everything is in table.inc.
#define PENSTOCK_TIER_NEON 1
#define PENSTOCK_TIER_NAME "neon"
#define PENSTOCK_TABLE kernels_neon
#include "table.inc"
