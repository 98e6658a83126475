// Philox 4x32-10, a counter-based generator (Salmon et al., 2011).
#pragma once

#include "simd.h"

constexpr int kGroups = 16;  // counters at a time

// A word in each 64 bits; what stands above it means nothing.
typedef uint64_t Words __attribute__((vector_size(32)));

// The 64 bits of each word times the multiplier.
inline Words times(Words a, uint64_t multiplier) {
#if defined(__AVX2__)
  const Words b = multiplier - Words{};
  return reinterpret_cast<Words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return (a & 0xFFFFFFFFu) * multiplier;
#endif
}

// Four words for each counter (position, sample, first + i, 0) below `last`, as floats.
inline void random_words(uint64_t seed, uint32_t position, uint32_t sample, long first, long last, float* out) {
  constexpr int kVectors = kGroups / 4;
  Words words[4][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const uint64_t at = static_cast<uint64_t>(first) + 4 * v;
    words[0][v] = position - Words{}, words[1][v] = sample - Words{};
    words[2][v] = Words{at, at + 1, at + 2, at + 3}, words[3][v] = Words{};
  }
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, low += 0x9E3779B9u, high += 0xBB67AE85u)
    for (int v = 0; v < kVectors; ++v) {
      const Words a = times(words[0][v], 0xD2511F53u), b = times(words[2][v], 0xCD9E8D57u);
      words[0][v] = (b >> 32) ^ words[1][v] ^ low, words[1][v] = b;
      words[2][v] = (a >> 32) ^ words[3][v] ^ high, words[3][v] = a;
    }
  for (long i = 0; i < kGroups && first + i < last; ++i)
    for (int lane = 0; lane < 4; ++lane)
      out[i * 4 + lane] = static_cast<float>(static_cast<uint32_t>(words[lane][i / 4][i % 4]));
}
