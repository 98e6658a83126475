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
