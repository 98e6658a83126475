// Vectors of floats as wide as the machine's, and what the kernels need of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(W * 4), may_alias, aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(W * 4), may_alias, aligned(4)));
typedef uint32_t WordVec __attribute__((vector_size(W * 4), may_alias, aligned(4)));
typedef uint16_t HalfVec __attribute__((vector_size(W * 2), may_alias, aligned(2)));
typedef int8_t ByteVec __attribute__((vector_size(W), may_alias, aligned(1)));

#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
INLINE Vec splat(float x) { return x - Vec{}; }
INLINE Vec largest(Vec a, Vec b) { return a > b ? a : b; }

// Narrow integers as wide ones. GCC 12 takes them apart one by one unless it is told the instruction.
INLINE WordVec widen(const HalfVec* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<WordVec>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<WordVec>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*p, WordVec);
#endif
}
INLINE IntVec widen(const ByteVec* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<IntVec>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*p, IntVec);
#endif
}

INLINE float sum_of(Vec v) {
  float total = v[0];
  for (int i = 1; i < W; ++i) total += v[i];
  return total;
}

INLINE float largest_of(Vec v) {
  float best = v[0];
  for (int i = 1; i < W; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// e^x within 2 units in the last place for x <= 88; exactly 0 below -87.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' expf.
INLINE Vec exp_of(Vec x) {
  const Vec most = splat(88.0f);
  const Vec clipped = x > most ? most : x;
  const Vec round = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (clipped * 1.44269504088896341f + round) - round;
  const Vec r = (clipped - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  const Vec scaled = p * reinterpret_cast<const Vec&>(power);
  return x < splat(-87.0f) ? Vec{} : scaled;
}
