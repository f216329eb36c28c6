// Tier avx512: AVX-512 F, BW, VL, DQ and VNNI. Compiled with that tier's flags only; everything is in table.inc.
#define PENSTOCK_TIER_AVX512 1
#define PENSTOCK_TIER_NAME "avx512"
#define PENSTOCK_TABLE kernels_avx512
#include "table.inc"
