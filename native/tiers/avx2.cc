// Tier avx2: AVX2, FMA, F16C. Compiled with that tier's flags only; everything is in table.inc.
#define PENSTOCK_TIER_AVX2 1
#define PENSTOCK_TIER_NAME "avx2"
#define PENSTOCK_TABLE kernels_avx2
#include "table.inc"
