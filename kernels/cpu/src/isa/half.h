// float16 <-> float32 for machines without instructions for it. A unit includes this inside its anonymous namespace,
// after <string.h>.

float from_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 0) {  // subnormal: mantissa * 2^-24
    const float magnitude = float(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (mantissa << 13);
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

uint16_t to_f16(float value) {  // round to nearest even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);   // NaN
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // beyond 65519.99: infinity
  if (magnitude < 0x38800000) {                                 // subnormal: adding 0.5 rounds at 2^-24
    float rounded;
    memcpy(&rounded, &magnitude, 4);
    rounded += 0.5f;
    uint32_t r;
    memcpy(&r, &rounded, 4);
    return uint16_t(sign | (r - 0x3f000000));
  }
  return uint16_t(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13));
}
