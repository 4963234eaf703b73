// The AMX kernels with tiles emulated in plain C++, for tests on machines that lack them.
#define EDGEREASON_EMULATE_TILES
#include "amx.cpp"
