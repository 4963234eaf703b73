// The table of a unit's functions. A unit includes this at the end of its anonymous namespace, after "generic.h" and
// what it defines itself: kTileRows, kByteOrigin, quantize, packed.
//
// Each function stands beside the field that it fills: several have the same parameters (swiglu and geglu), so that in
// a list by position two of them could change places and still compile.

constexpr Kernels table_of(const char* name, RoundPanels round_panels, const ManyRows* many = nullptr) {
  return {.name = name,
          .tile_rows = kTileRows,
          .byte_origin = kByteOrigin,
          .quantize = quantize,
          .packed = packed,
          .dense = dense,
          .update = update,
          .rms_norm = rms_norm,
          .rope = rope,
          .swiglu = swiglu,
          .geglu = geglu,
          .softcap = softcap,
          .append = append,
          .attention = attention,
          .combine = combine,
          .to_float = to_float,
          .round = round_panels,
          .many = many};
}
