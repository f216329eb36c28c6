// Tier scalar: plain C++ for any machine. Compiled with that tier's flags only; everything is in table.inc.
#define PENSTOCK_TIER_SCALAR 1
#define PENSTOCK_TIER_NAME "scalar"
#define PENSTOCK_TABLE kernels_scalar
#include "table.inc"
