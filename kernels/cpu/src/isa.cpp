#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__) || defined(_M_X64)
#define EDGEREASON_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

namespace edgereason {
namespace {

struct Features {
  bool avx2, fma, f16c, avx_vnni, avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni, avx512_bf16;
  bool amx_tile, amx_int8, amx_bf16;
  bool dotprod, i8mm;  // ARM's FEAT_DotProd and FEAT_I8MM
};

#ifdef EDGEREASON_X86
struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r{};
#ifdef _MSC_VER
  int out[4];
  __cpuid(out, 0);
  if (uint32_t(out[0]) < leaf) return r;
  __cpuidex(out, int(leaf), int(subleaf));
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

uint64_t enabled_state() {  // which registers the operating system saves
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
#endif
}

// Intel's manual, volume 2, CPUID; AMD uses the same bits.
Features detect() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), more = cpuid(7, 1);
  const auto bit = [](uint32_t word, int index) { return (word >> index & 1) != 0; };
  const bool osxsave = bit(one.ecx, 27);
  const uint64_t state = osxsave ? enabled_state() : 0;
  const bool ymm = (state & 0x6) == 0x6 && bit(one.ecx, 28), zmm = ymm && (state & 0xe0) == 0xe0;
  const bool tiles = (state & 0x60000) == 0x60000;
  Features f{};
  f.avx2 = ymm && bit(seven.ebx, 5);
  f.fma = ymm && bit(one.ecx, 12);
  f.f16c = ymm && bit(one.ecx, 29);
  f.avx_vnni = ymm && bit(more.eax, 4);
  f.avx512f = zmm && bit(seven.ebx, 16);
  f.avx512dq = zmm && bit(seven.ebx, 17);
  f.avx512bw = zmm && bit(seven.ebx, 30);
  f.avx512vl = zmm && bit(seven.ebx, 31);
  f.avx512_vnni = zmm && bit(seven.ecx, 11);
  f.avx512_bf16 = zmm && bit(more.eax, 5);
  f.amx_bf16 = tiles && bit(seven.edx, 22);
  f.amx_tile = tiles && bit(seven.edx, 24);
  f.amx_int8 = tiles && bit(seven.edx, 25);
  return f;
}
#elif defined(__aarch64__) && defined(__linux__)
// Documentation/arch/arm64/elf_hwcaps.rst of Linux; the bits' names are missing in old headers.
Features detect() {
  constexpr unsigned long kDotProd = 1ul << 20, kI8mm = 1ul << 13;
  Features f{};
  f.dotprod = (getauxval(AT_HWCAP) & kDotProd) != 0;
  f.i8mm = (getauxval(AT_HWCAP2) & kI8mm) != 0;
  return f;
}
#elif defined(__aarch64__) && defined(__APPLE__)
Features detect() {
  const auto has = [](const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  Features f{};
  f.dotprod = has("hw.optional.arm.FEAT_DotProd");
  f.i8mm = has("hw.optional.arm.FEAT_I8MM");
  return f;
}
#elif defined(_M_ARM64) || (defined(__aarch64__) && defined(_WIN32))
// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE, which old headers lack.
Features detect() {
  Features f{};
  f.dotprod = IsProcessorFeaturePresent(43);
  f.i8mm = IsProcessorFeaturePresent(66);
  return f;
}
#else
Features detect() {
  return {};
}
#endif

// Linux gives a process the tiles' 8 KB of state on request (Documentation/arch/x86/xstate.rst); its threads have them
// from then on. A system that refuses, or never heard of it, leaves AVX-512.
[[maybe_unused]] bool tiles_permitted() {
#if defined(EDGEREASON_X86) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}

const Features& features() {
  static const Features found = detect();
  return found;
}

const Kernels* find(const std::string& name) {
  std::string names;
  for (const Kernels* k : available_kernels()) {
    if (name == k->name) return k;
    names += (names.empty() ? "" : ", ") + std::string(k->name);
  }
  throw std::invalid_argument("this machine has no instruction set \"" + name + "\"; it has " + names);
}

std::atomic<const Kernels*> in_use{nullptr};

}  // namespace

std::vector<std::string> cpu_features() {
  const Features& f = features();
  const std::pair<const char*, bool> all[] = {{"avx2", f.avx2},
                                              {"fma", f.fma},
                                              {"f16c", f.f16c},
                                              {"avx_vnni", f.avx_vnni},
                                              {"avx512f", f.avx512f},
                                              {"avx512bw", f.avx512bw},
                                              {"avx512dq", f.avx512dq},
                                              {"avx512vl", f.avx512vl},
                                              {"avx512_vnni", f.avx512_vnni},
                                              {"avx512_bf16", f.avx512_bf16},
                                              {"amx_tile", f.amx_tile},
                                              {"amx_int8", f.amx_int8},
                                              {"amx_bf16", f.amx_bf16},
                                              {"dotprod", f.dotprod},
                                              {"i8mm", f.i8mm}};
  std::vector<std::string> names;
  for (const auto& [name, has] : all)
    if (has) names.emplace_back(name);
  return names;
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
  [[maybe_unused]] const Features& f = features();
  [[maybe_unused]] const bool avx2 = f.avx2 && f.fma && f.f16c;
  [[maybe_unused]] const bool avx512 = avx2 && f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl && f.avx512_vnni;
#ifdef EDGEREASON_AMX
  if (avx512 && f.amx_tile && f.amx_int8 && tiles_permitted()) found.push_back(amx_kernels());
#endif
#ifdef EDGEREASON_AVX512VNNI
  if (avx512) found.push_back(avx512vnni_kernels());
#endif
#ifdef EDGEREASON_AVXVNNI
  if (avx2 && f.avx_vnni) found.push_back(avxvnni_kernels());
#endif
#ifdef EDGEREASON_AVX2
  if (avx2) found.push_back(avx2_kernels());
#endif
#ifdef EDGEREASON_AMX_EMULATED
  if (avx512) found.push_back(amx_emulated_kernels());
#endif
#ifdef EDGEREASON_I8MM
  if (f.dotprod && f.i8mm) found.push_back(i8mm_kernels());
#endif
#ifdef EDGEREASON_NEON
  if (f.dotprod) found.push_back(neon_kernels());
#endif
  found.push_back(scalar_kernels());
  return found;
}

const Kernels& kernels() {
  const Kernels* now = in_use.load(std::memory_order_acquire);
  if (!now) {
    use_kernels("");
    now = in_use.load(std::memory_order_acquire);
  }
  return *now;
}

void use_kernels(const std::string& name) {
  const char* wanted = std::getenv("EDGEREASON_ISA");
  const std::string chosen = !name.empty() ? name : wanted ? wanted : "";
  in_use.store(chosen.empty() ? available_kernels().front() : find(chosen), std::memory_order_release);
}

}  // namespace edgereason
