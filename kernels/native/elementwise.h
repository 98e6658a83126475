// Norms, rotation and activation of single rows.
#pragma once

#include "simd.h"

INLINE float square_sum(const float* x, long n) {
  Vec sums{};
  long i = 0;
  for (; i + W <= n; i += W) sums += load(x + i) * load(x + i);
  float total = sum_of(sums);
  for (; i < n; ++i) total += x[i] * x[i];
  return total;
}

// out = x / sqrt(mean(x^2) + eps) * weight; out may be x.
INLINE void norm_row(const float* x, const float* weight, float eps, long n, float* out) {
  const float factor = 1.0f / std::sqrt(square_sum(x, n) / static_cast<float>(n) + eps);
  for (long i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

// Where the first of the largest of n >= 1 numbers stands; of NaN, somewhere.
INLINE long largest_at(const float* x, long n) {
  constexpr long kPart = 2048;  // the one that has it is read again, from the first cache mostly
  long from = 0;
  float best = x[0];
  for (long first = 0; first < n; first += kPart) {
    const long last = first + kPart < n ? first + kPart : n;
    Vec some[4] = {splat(x[first]), splat(x[first]), splat(x[first]), splat(x[first])};
    long i = first;
    for (; i + 4 * W <= last; i += 4 * W)
      for (int v = 0; v < 4; ++v) some[v] = largest(some[v], load(x + i + v * W));
    float most = largest_of(largest(largest(some[0], some[1]), largest(some[2], some[3])));
    for (; i < last; ++i) most = x[i] > most ? x[i] : most;
    if (most > best) best = most, from = first;
  }
  while (from + 1 < n && x[from] != best) ++from;  // NaN equals nothing
  return from;
}

// out = silu(gate) * up.
INLINE void silu_mul_row(const float* gate, const float* up, long n, float* out) {
  long i = 0;
  for (; i + W <= n; i += W) {
    const Vec x = load(gate + i);
    store(out + i, x / (1.0f + exp_of(-x)) * load(up + i));
  }
  for (; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// One head, normed by `weight` unless that is null; its first `turning` dimensions then rotated.
INLINE void turn_head(const float* x, const float* weight, float eps, const float* cos, const float* sin,
                      long turning, long dim, float* out) {
  float factor = 1.0f;
  if (weight) factor = 1.0f / std::sqrt(square_sum(x, dim) / static_cast<float>(dim) + eps);
  const long half = turning / 2;
  for (long i = 0; i < half; ++i) {
    const float low = weight ? x[i] * factor * weight[i] : x[i];
    const float high = weight ? x[i + half] * factor * weight[i + half] : x[i + half];
    out[i] = low * cos[i] - high * sin[i];
    out[i + half] = high * cos[i] + low * sin[i];
  }
  for (long i = turning; i < dim; ++i) out[i] = weight ? x[i] * factor * weight[i] : x[i];
}
