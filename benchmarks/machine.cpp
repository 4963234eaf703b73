// The two limits that a CPU sets to a language model: how fast it reads memory, and how fast it multiplies int8.
//
//   machine THREADS  ->  {"read_gb_s": 31.2, "read_gb_s_small_pages": 28.4, "int8_tops_by_isa": {"avx2": 0.9, ...}}
//
// Reading: all threads sum a gibibyte, far more than any cache holds, each its own part; the best of a few passes.
// Measured in large pages where the system gives them, and again in small ones, which is what mapped files lie in.
// Multiplying: a loop of independent dot products in registers, for each instruction set that the CPU has.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr size_t kBytes = size_t(1) << 30;
constexpr size_t kPage = size_t(1) << 21;  // a large page
constexpr int kPasses = 6;
constexpr int64_t kSteps = 24'000'000;

template <class Work>
double seconds(int threads, Work work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> team;
  for (int i = 1; i < threads; i++) team.emplace_back(work, i);
  work(0);
  for (auto& each : team) each.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::atomic<uint64_t> sink;  // what is summed has to be used, or the compiler leaves it out

double read_gb_s(int threads, bool large_pages) {
  auto* data = static_cast<uint64_t*>(std::aligned_alloc(kPage, kBytes));
  if (data == nullptr) return 0;
#if defined(__linux__)
  madvise(data, kBytes, large_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
  constexpr size_t kCount = kBytes / sizeof(uint64_t);
  std::fill(data, data + kCount, 1);
  double best = 1e9;
  for (int pass = 0; pass < kPasses; pass++) {
    best = std::min(best, seconds(threads, [=](int thread) {
                      constexpr size_t kLanes = 32;  // independent sums, so that loads and not additions are waited for
                      const size_t share = kCount / threads / kLanes * kLanes;
                      const uint64_t* from = data + share * thread;
                      uint64_t sums[kLanes] = {}, total = 0;
                      for (size_t i = 0; i < share; i += kLanes)
                        for (size_t j = 0; j < kLanes; j++) sums[j] += from[i + j];
                      for (uint64_t sum : sums) total += sum;
                      sink += total;
                    }));
  }
  std::free(data);
  return double(kBytes) / best / 1e9;
}

// One loop for all instruction sets: ten accumulators hide a latency of five cycles at two products per cycle. The
// instructions stand there as assembly, since a compiler would notice that all products are the same.
#define EDGEREASON_LOOP(Reg, DOT)                                                               \
  Reg s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {}, s6 = {}, s7 = {}, s8 = {}, s9 = {}; \
  Reg x = {}, w = {};                                                                           \
  for (int64_t step = 0; step < kSteps; step++) {                                               \
    DOT(s0);                                                                                    \
    DOT(s1);                                                                                    \
    DOT(s2);                                                                                    \
    DOT(s3);                                                                                    \
    DOT(s4);                                                                                    \
    DOT(s5);                                                                                    \
    DOT(s6);                                                                                    \
    DOT(s7);                                                                                    \
    DOT(s8);                                                                                    \
    DOT(s9);                                                                                    \
  }

struct Isa {
  const char* name;
  bool present;
  void (*loop)();
  double operations;  // multiplications and additions of one loop
};

#if defined(__x86_64__)
__attribute__((target("avx2"))) void avx2() {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i product;
#define DOT(sum)                                                                       \
  __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0" \
                   : "+x"(sum), "=&x"(product)                                         \
                   : "x"(x), "x"(w), "x"(ones))
  EDGEREASON_LOOP(__m256i, DOT)
#undef DOT
}

__attribute__((target("avx2"))) void avxvnni() {
#define DOT(sum) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w))
  EDGEREASON_LOOP(__m256i, DOT)
#undef DOT
}

__attribute__((target("avx512f"))) void avx512vnni() {
#define DOT(sum) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w))
  EDGEREASON_LOOP(__m512i, DOT)
#undef DOT
}

// Six tiles of sums, 16 x 16, one of rows and one of weights, 16 x 64 bytes each: what a product of two by three needs.
__attribute__((target("amx-tile,amx-int8"))) void amx() {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; tile++) {
    reinterpret_cast<uint16_t*>(config + 16)[tile] = 64;
    config[48 + tile] = 16;
  }
  __asm__ volatile("" ::"r"(config) : "memory");  // GCC 12 drops the stores above without this
  _tile_loadconfig(config);
  for (int64_t step = 0; step < kSteps / 16; step++) {
    _tile_dpbusd(0, 6, 7);
    _tile_dpbusd(1, 6, 7);
    _tile_dpbusd(2, 6, 7);
    _tile_dpbusd(3, 6, 7);
    _tile_dpbusd(4, 6, 7);
    _tile_dpbusd(5, 6, 7);
  }
  _tile_release();
}

bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM for tile data; threads inherit it
#else
  return false;
#endif
}

bool has_avxvnni() {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

std::vector<Isa> instruction_sets() {
  constexpr double kLanes = 2.0 * 10 * kSteps;
  return {
      {"avx2", bool(__builtin_cpu_supports("avx2")), avx2, kLanes * 32},
      {"avxvnni", has_avxvnni(), avxvnni, kLanes * 32},
      {"avx512vnni", bool(__builtin_cpu_supports("avx512vnni")), avx512vnni, kLanes * 64},
      {"amx", has_amx(), amx, 2.0 * 6 * (kSteps / 16) * 16 * 16 * 64},
  };
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
void dotprod(){
#define DOT(sum) __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w))
    EDGEREASON_LOOP(int32x4_t, DOT)
#undef DOT
}

std::vector<Isa> instruction_sets() {
  return {{"dotprod", true, dotprod, 2.0 * 10 * kSteps * 16}};
}
#else
std::vector<Isa> instruction_sets() {
  return {};
}
#endif

double tops(const Isa& isa, int threads) {
  double best = 1e9;
  for (int pass = 0; pass < kPasses; pass++) best = std::min(best, seconds(threads, [&](int) { isa.loop(); }));
  return isa.operations * threads / best / 1e12;
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::max(1, std::atoi(arguments[1])) : 1;
  std::string rates;
  for (const Isa& isa : instruction_sets()) {
    if (!isa.present) continue;
    char text[64];
    std::snprintf(text, sizeof text, "%s\"%s\": %.3f", rates.empty() ? "" : ", ", isa.name, tops(isa, threads));
    rates += text;
  }
  std::printf("{\"read_gb_s\": %.2f, \"read_gb_s_small_pages\": %.2f, \"int8_tops_by_isa\": {%s}}\n",
              read_gb_s(threads, true), read_gb_s(threads, false), rates.c_str());
}
