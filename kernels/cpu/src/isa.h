// Which instruction sets this machine has, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace edgereason {

// CPU features by their usual names ("avx2", "avx512_vnni", "amx_int8", ...), as far as the operating system allows
// them.
std::vector<std::string> cpu_features();

// The kernels that this build has and this machine runs, best first; "scalar" is always the last.
std::vector<const Kernels*> available_kernels();

// The kernels in use: those that EDGEREASON_ISA names, or the best. Throws std::invalid_argument when the machine lacks
// the ones asked for.
const Kernels& kernels();

// Replaces the kernels in use; empty: back to EDGEREASON_ISA or the best.
void use_kernels(const std::string& name);

}  // namespace edgereason
