// What Python calls. Sizes count elements; pointers are to contiguous memory unless strides say so.
#include <utility>

#include "philox.h"
#include "step.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t baton_abi() { return 3; }

// x and out [m, n]; rows of x are `ldx` apart.
EXPORT void baton_rms_norm(const float* x, int64_t ldx, const float* weight, double eps, int64_t m, int64_t n,
                           float* out, int64_t threads) {
  Pool::run(threads, [&](Member& team) {
    team.share(m, [&](long t) { norm_row(x + t * ldx, weight, eps, n, out + t * n); });
  });
}

EXPORT void baton_add_rms_norm(const float* x, int64_t ldx, const float* residual, int64_t ldr, const float* weight,
                               double eps, int64_t m, int64_t n, float* out, float* sum, int64_t threads) {
  Pool::run(threads, [&](Member& team) {
    team.share(m, [&](long t) {
      for (long i = 0; i < n; ++i) sum[t * n + i] = x[t * ldx + i] + residual[t * ldr + i];
      norm_row(sum + t * n, weight, eps, n, out + t * n);
    });
  });
}

// x [m, 2 n], out [m, n].
EXPORT void baton_silu_mul(const float* x, int64_t ldx, int64_t m, int64_t n, float* out, int64_t threads) {
  Pool::run(threads, [&](Member& team) {
    team.share(m, [&](long t) { silu_mul_row(x + t * ldx, x + t * ldx + n, n, out + t * n); });
  });
}

// qkv [m, (num + 2 num_kv) * dim], rows `ld` apart; q [m, num, dim].
EXPORT void baton_qk_norm_rope_write(const float* qkv, int64_t ld, const float* norm, double eps,
                                     const Rotary* rotary, const Heads* heads, const Arena* kv,
                                     const int64_t* blocks, const int64_t* offsets, int64_t m, float* q,
                                     int64_t threads) {
  Pool::run(threads, [&](Member& team) {
    team.share(m, [&](long t) {
      turn_and_write(qkv + t * ld, norm, eps, *rotary, t, *heads, *kv, blocks[t], offsets[t],
                     q + t * heads->num * heads->dim);
    });
  });
}

EXPORT void baton_paged_attention(const float* q, const Heads* heads, const Arena* kv, const Chunks* chunks,
                                  double scale, const Variant* variant, float* out, int64_t threads) {
  const Attention attention{q, *heads, *kv, *chunks, static_cast<float>(scale), *variant, out};
  Pool::run(threads, [&](Member& team) { attend_all(team, attention); });
}

// Elements of a packed matrix.
EXPORT int64_t baton_packed_size(int64_t n, int64_t k) { return (n + NR - 1) / NR * NR * k; }

// Packs weight [n, k] with elements of 1, 2 or 4 bytes; outputs beyond n are zero.
EXPORT void baton_pack(const void* weight, int64_t size, int64_t n, int64_t k, void* out, int64_t threads) {
  const auto pack = [&](auto* from, auto* to) {
    Pool::run(threads, [&](Member& team) {
      team.share((n + NR - 1) / NR, [&](long p) {
        for (long r = 0; r < NR; ++r)
          for (long i = 0; i < k; ++i)
            to[(p * k + i) * NR + r] = p * NR + r < n ? from[(p * NR + r) * k + i] : 0;
      });
    });
  };
  if (size == 4) pack(static_cast<const uint32_t*>(weight), static_cast<uint32_t*>(out));
  else if (size == 2) pack(static_cast<const uint16_t*>(weight), static_cast<uint16_t*>(out));
  else pack(static_cast<const uint8_t*>(weight), static_cast<uint8_t*>(out));
}

// y [m, n] = x [m, k] * w^T; rows of x are `ldx` apart.
EXPORT void baton_linear(const Matrix* w, const float* x, int64_t ldx, int64_t m, float* y, int64_t threads) {
  std::vector<float> packed(packed_size(m, w->k));
  Pool::run(threads, [&](Member& team) { multiply(team, *w, {x, ldx}, m, {y, w->n}, packed.data()); });
}

// Rows of the matrix, [num, k].
EXPORT void baton_rows(const Matrix* w, const int64_t* ids, int64_t num, float* out, int64_t threads) {
  Pool::run(threads, [&](Member& team) { team.share(num, [&](long t) { row_of(*w, ids[t], out + t * w->k); }); });
}

// out [num, groups, 4]: random words of groups of four tokens, as floats.
EXPORT void baton_random_words(const int64_t* seeds, const int64_t* positions, const int64_t* samples, int64_t num,
                               int64_t groups, float* out, int64_t threads) {
  const long parts = (groups + 1023) / 1024;
  Pool::run(threads, [&](Member& team) {
    team.share(num * parts, [&](long task) {
      const long row = task / parts, first = task % parts * 1024, last = std::min<long>(first + 1024, groups);
      for (long group = first; group < last; group += kGroups)
        random_words(seeds[row], positions[row], samples[row], group, last, out + (row * groups + group) * 4);
    });
  });
}

// out [m]: the first of each row's largest numbers; rows of x [m, n] are `ldx` apart, without NaN.
EXPORT void baton_argmax(const float* x, int64_t ldx, int64_t m, int64_t n, int64_t* out, int64_t threads) {
  Pool::run(threads, [&](Member& team) {
    team.share(m, [&](long row) { out[row] = largest_at(x + row * ldx, n); });
  });
}

EXPORT void baton_step(const Model* model, const Batch* batch, int64_t threads) {
  if (batch->num_tokens == 0) return;
  // Steps of all callers use the same room.
  static std::mutex turn;
  std::lock_guard<std::mutex> lock(turn);
  Step step(*model, *batch);
  Pool::run(threads, [&](Member& team) { step.run(team); });
}

// Reads n floats once; the sum keeps the compiler from leaving it out.
EXPORT float baton_read(const float* data, int64_t n, int64_t threads) {
  constexpr long kPart = 1 << 16;
  std::vector<float> sums(threads * 16);
  Pool::run(threads, [&](Member& team) {
    team.share((n + kPart - 1) / kPart, [&](long part) {
      Vec s[8] = {};
      const long end = std::min<long>(n, (part + 1) * kPart);
      for (long i = part * kPart; i + 8 * W <= end; i += 8 * W) {
        __builtin_prefetch(data + i + 512);
        if (W < 16) __builtin_prefetch(data + i + 528), __builtin_prefetch(data + i + 544), __builtin_prefetch(data + i + 560);
        for (int v = 0; v < 8; ++v) s[v] += load(data + i + v * W);
      }
      for (int v = 0; v < 8; ++v) sums[team.index * 16] += sum_of(s[v]);
    });
  });
  float total = 0;
  for (long t = 0; t < threads; ++t) total += sums[t * 16];
  return total;
}
