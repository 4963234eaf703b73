// What the kernels use of AMX (Intel's manual, volume 1, chapter 18): eight tile registers of 16 rows by 64 bytes.
//
// Two implementations: the instructions, and plain C++ with their semantics for machines that lack them
// (EDGEREASON_EMULATE_TILES). A tile is configured before its first use and released after a task, so that a thread's
// other work does not save and restore 8 KB at each switch. Included inside an anonymous namespace, after <stdint.h>,
// <stdlib.h> and <string.h>.
//
//   configure_tiles()      all tiles to 16 rows by 64 bytes
//   release_tiles()
//   zero_tile<T>()
//   load_tile<T>(p, s)     16 rows of 64 bytes, s bytes apart
//   store_tile<T>(p, s)
//   dot_tiles<C, A, B>()   C [m, n] += sum_k,j A [m, 4k + j] * B [k, 4n + j]: C s32 [16, 16], A and B s8 [16, 64]

constexpr int kTileLines = 16, kTileBytes = 64;

#ifndef EDGEREASON_EMULATE_TILES

// Assembly rather than intrinsics: GCC 12 drops the stores that fill a configuration before its _tile_loadconfig, which
// does not say that it reads memory; and its others want a literal as a tile's number.
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_of_row[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "the layout of LDTILECFG");

void configure_tiles() {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < 8; tile++) {
    config.bytes_of_row[tile] = kTileBytes;
    config.rows[tile] = kTileLines;
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

void release_tiles() {
  __asm__ volatile("tilerelease" : : : "memory");
}

template <int T>
void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}

template <int T>
void load_tile(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
void store_tile(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}

template <int C, int A, int B>
void dot_tiles() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#else

struct Tiles {
  bool configured = false;
  int8_t values[8][kTileLines][kTileBytes];
};
thread_local Tiles tiles;

auto& tile(int number) {
  if (!tiles.configured) abort();  // as the instructions fault
  return tiles.values[number];
}

void configure_tiles() {
  memset(tiles.values, 0, sizeof tiles.values);
  tiles.configured = true;
}

void release_tiles() {
  tiles.configured = false;
}

template <int T>
void zero_tile() {
  memset(tile(T), 0, sizeof tile(T));
}

template <int T>
void load_tile(const void* from, int64_t stride) {
  for (int row = 0; row < kTileLines; row++)
    memcpy(tile(T)[row], static_cast<const char*>(from) + row * stride, kTileBytes);
}

template <int T>
void store_tile(void* to, int64_t stride) {
  for (int row = 0; row < kTileLines; row++) memcpy(static_cast<char*>(to) + row * stride, tile(T)[row], kTileBytes);
}

template <int C, int A, int B>
void dot_tiles() {
  for (int m = 0; m < kTileLines; m++) {
    int32_t sums[kTileBytes / 4];
    memcpy(sums, tile(C)[m], kTileBytes);
    for (int k = 0; k < kTileBytes / 4; k++)
      for (int n = 0; n < kTileBytes / 4; n++)
        for (int j = 0; j < 4; j++) sums[n] += tile(A)[m][4 * k + j] * tile(B)[k][4 * n + j];
    memcpy(tile(C)[m], sums, kTileBytes);
  }
}

#endif
