// What an instruction set provides: one table of functions over plain pointers.
//
// Only types live here, no inline functions: a function that is emitted by a unit compiled for AVX-512 could be the
// copy that the linker keeps for all units, and crash machines without it.
#pragma once

#include <cstdint>

namespace edgereason {

constexpr int kPanel = 16;  // output rows of a packed block
constexpr int kBlock = 32;  // inputs of a packed block, and of a group of quantized activations

enum class Type { f32, f16, bf16, s8 };

// Quantized weights, w[n, k] = scale[n, g] * (q[n, k] - zero[n, g]), in blocks of 16 output rows by 32 inputs.
//
//   qweight  [panels, blocks, 256 or 512]  4 bits: four lines of 64 bytes; byte 4r + j of line i holds input 8i + j of
//                                          row r in its low nibble and input 8i + 4 + j in its high one.
//                                          8 bits: eight lines; byte 4r + j of line i holds input 4i + j of row r.
//   scales   [panels, groups, 16]          float16
//   zeros    [panels, groups, 16]          null: 8 for 4 bits, 128 for 8 bits
//
// Four neighbours of one row in 32 bits are what a VNNI dot product consumes; sixteen rows fill a 512-bit register.
struct PackedWeight {
  const uint8_t* qweight;
  const uint16_t* scales;
  const uint8_t* zeros;
  int64_t rows, columns;           // as the model has them
  int64_t panels, blocks, groups;  // as stored: rows / 16, columns / 32 and columns / group size, padded
  int bits;
  const int32_t* order;  // null, or [columns]: the stored input k is input order[k] of x
};

struct DenseWeight {  // row-major [rows, columns]
  const void* data;
  Type type;
  int64_t rows, columns;
};

// y [m, rows] = x [m, columns] w^T + add. `add` may be null; its rows are `add_stride` apart (0: one row for all).
//
// Activations of a packed product come in tiles of `tile_rows` rows (fewer in the last). A tile of R rows holds, for
// each block of 32 inputs: s8 [R, 32], the scales f32 [R], and s32 [R]: the sums of the 32 values times a factor, which
// carry the weights' zero point (see `linear`). 40 bytes per row and block, read in order by every panel. Who fills a
// tile also reads it: an instruction set may put the 32 R values in another order.
struct PackedProduct {
  PackedWeight w;
  const uint8_t* tiles;
  int64_t m;
  const float* add;
  int64_t add_stride;
  float* y;
};
constexpr int kTileRowBytes = kBlock + 8;

// Products of many rows with 4-bit weights. A panel is unpacked once for all rows anyway, and then rescaling each group
// of 32 would cost as much as a third of the products. So weights and activations are brought to one scale for each
// span of 128 inputs:
//
//   weights      w8 [n, k] = ((q [n, k] - zero [n, g]) b [n, g] + 128) >> 8, within -120 .. 120, where
//                b [n, g] = round(kReach * scale [n, g] / s), s = the span's largest |scale [n, g]| d [n, g], and
//                d = max(zero, 15 - zero): how far q can be from its zero point. w = w8 * s / 120.
//   activations  s8 with one scale for each row and span: absmax / 127, nearest even.
//
// The product (q - zero) b stays within 16 bits. Symmetric weights with one scale in a span (groups of 128 and more, or
// per channel) lose nothing: w8 = 15 (q - 8). With groups of 32, rounding w8 adds 0.4% to the variance that rounding to
// 4 bits has left where a group's scale is the span's largest, and a few times that where it is smaller. Weights of 8
// bits are there for their precision, and keep their groups.
//
// Few rows keep their groups of 32: a row's result is the same, bit for bit, beside any others as long as they are few,
// and the same beside any others as long as they are many.
constexpr int kSpan = 128;
constexpr int kSpanBlocks = kSpan / kBlock;
constexpr int kReach = 120 * 256;
constexpr int kFewRows = 32;  // below, unpacking takes longer than it saves

// A panel unpacked for many rows has for each span 32 lines of 64 bytes, in the order of 8-bit weights, and then
// s / 120, f32 [16]. The bytes are w8 + 128 where the instructions multiply unsigned with signed bytes, w8 with AMX.
constexpr int kPanelSpanBytes = kPanel * kSpan + 4 * kPanel;

// A tile of activations has for each span s8 [tile_rows, 128], the scales f32 [tile_rows], and s32 [tile_rows]: -128
// times the sums of the 128 values. Rows beyond the last are left undefined.
constexpr int kSpanRowBytes = kSpan + 8;

struct ManyRows {
  int tile_rows;
  // x [rows, columns] -> one tile; columns beyond the last are zero.
  void (*quantize)(const float* x, int rows, int64_t columns, int64_t spans, uint8_t* tile);
  // Panels begin <= p < end of a product whose tiles are laid out as above. scratch: two unpacked panels, aligned
  // to 64.
  void (*packed)(const PackedProduct&, int64_t begin, int64_t end, uint8_t* scratch);
};

struct DenseProduct {
  DenseWeight w;
  const float* x;
  int64_t m;
  const float* add;
  int64_t add_stride;
  float* y;
};

// Adds a low-rank product to some panels of y, for the rows of one adapter:
//   y [m, 16 p + n] += scale * sum_r h [m, r] up [p - first, r, n]        for first <= p < last
// where h is x times the adapter's other half.
struct LowRankUpdate {
  const float* h;  // rows h_stride apart
  int64_t h_stride;
  const void* up;  // [last - first, rank, 16]
  Type type;
  int64_t rank, first, last;
  float scale;
  int64_t m;
  float* y;  // [m, columns]
  int64_t columns;
};

// Attention of some rows of one sequence, t = 0 .. rows - 1 at positions position + t, over a cache that holds all keys
// up to them in pages of 64 tokens. A page has, for each layer and KV head, `head_bytes` with
//
//   keys    [4, dim, 16]    sixteen keys interleaved: a score is a sum over lanes that needs no horizontal addition,
//   values  [64, dim]       and one load of keys serves all query heads
//   scales  f32 [2, 64]     s8 only: of each key, and of each value
struct Attention {
  const float* q;  // [rows, heads, dim], rows q_stride apart
  int64_t q_stride;
  uint8_t* const* pages;
  int64_t layer_offset, head_bytes;  // the layer's place in a page, and a head's size
  Type type;                         // of the cache: f32, f16 or s8
  float* y;                          // [rows, heads, dim]
  int64_t rows, heads, kv_heads, dim, position;
  float scale;
  int64_t window;  // 0, or how many keys a row sees at most: its own and those right before it
  float softcap;   // 0, or c: scores become c tanh(score / c)
};
constexpr int kKeys = 16;  // keys interleaved in the cache
constexpr int kPage = 64;  // tokens of a page, and keys between two updates of the running softmax
constexpr int kMaxHeadDim = 512;

// Rows begin <= t < end of one KV head, and the keys at first <= position < last; `first` begins a page.
struct AttentionTask {
  int64_t kv_head, begin, end, first, last;
  // Null where these are all keys that the rows see: the task writes y. Else what `combine` needs of each query, in the
  // order of rows and then heads: f32 [2 + dim], the highest score times log2(e), the sum of 2^(score - highest), and
  // the values' sum with these weights.
  float* partial = nullptr;
};
constexpr int kRange = 512;       // a range's keys: it begins at a multiple of this
constexpr int kMaxTile = 8;       // queries that share the loads of keys and values
constexpr int kTaskQueries = 96;  // queries for which a page is brought to float32 once

struct Rounding;

struct Kernels {
  const char* name;
  int tile_rows;
  // What the arithmetic subtracts from 8-bit weights by itself: 128 where it works on s8, 0 where it works on u8.
  int byte_origin;

  // x [rows, columns] -> one tile; columns beyond the last are zero. scale = absmax / 127, nearest even.
  void (*quantize)(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile);
  // Panels begin <= p < end. scratch: two panels of bytes, blocks * 1024, aligned to 64.
  void (*packed)(const PackedProduct&, int64_t begin, int64_t end, uint8_t* scratch);
  // Output rows begin <= n < end.
  void (*dense)(const DenseProduct&, int64_t begin, int64_t end);
  // Panels begin <= p < end.
  void (*update)(const LowRankUpdate&, int64_t begin, int64_t end);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y);
  // x [rows, heads, dim] in place, rows x_stride apart; cos and sin [rows, half]. Of each head, elements 0 .. half - 1
  // rotate against half .. 2 half - 1; the others stay.
  void (*rope)(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim,
               int64_t half);
  void (*swiglu)(const float* gate_up, int64_t rows, int64_t width, float* y);
  void (*geglu)(const float* gate_up, int64_t rows, int64_t width, float* y);
  void (*softcap)(float* x, int64_t count, float cap);
  // Keys and values [rows, kv_heads, dim] of rows begin <= t < end into the cache; rows stride apart.
  void (*append)(const Attention&, const float* k, const float* v, int64_t k_stride, int64_t v_stride, int64_t begin,
                 int64_t end);
  // scratch: f32 [kMaxTile * kPage + 2 * kTaskQueries * (2 + dim) + 2 * kPage * dim].
  void (*attention)(const Attention&, const AttentionTask&, float* scratch);
  // One query's y [dim] from its partial results in neighbouring ranges, `stride` floats apart.
  void (*combine)(const float* partials, int64_t ranges, int64_t stride, int64_t dim, float* y);
  void (*to_float)(const void* data, Type type, int64_t count, float* y);
  bool (*round)(const Rounding&, int64_t begin, int64_t end, float* scratch);  // see rounding.h
  const ManyRows* many;  // null: products of many rows are computed as those of few are
};

const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512vnni_kernels();
const Kernels* amx_kernels();
const Kernels* amx_emulated_kernels();
const Kernels* neon_kernels();
const Kernels* i8mm_kernels();

}  // namespace edgereason
