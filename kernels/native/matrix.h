// Packed weight matrices, and products of rows with them.
//
// A matrix [n, k] is stored as panels of 16 outputs, [ceil(n / 16), k, 16], so that a product reads
// it once from front to back. Each output is summed over k in one order, whatever the number of
// rows, the threads and the form of the weights: a row alone equals the row in a batch, bit for bit.
#pragma once

#include <algorithm>
#include <vector>

#include "pool.h"
#include "simd.h"

constexpr int NR = 16;        // outputs in a panel
constexpr int MR = 6;         // rows at a time: 12 sums of 8 floats fill AVX2's registers
constexpr long kMaxStep = 384;  // k at a time: 24 KB of a panel stay in the first cache
constexpr long kRowBlock = 32 * MR;  // rows by kMaxStep: 295 KB stay in the second
constexpr long kFewRows = 12;  // up to here rows are read where they lie
constexpr long kAhead = 2048;  // bytes from a weight to the one that is fetched meanwhile

enum Form : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

struct Matrix {
  const void* data;
  const float* scale;  // int8: [n] factor of each output
  const float* bias;   // [n] or null
  int64_t n, k, form;
};

struct Float32 {
  using T = float;
  static INLINE Vec get(const T* p) { return load(p); }
};
struct Bfloat16 {
  using T = uint16_t;
  static INLINE Vec get(const T* p) {
    const WordVec wide = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), WordVec) << 16;
    return reinterpret_cast<const Vec&>(wide);
  }
};
struct Int8 {
  using T = int8_t;
  static INLINE Vec get(const T* p) {
    const IntVec wide = __builtin_convertvector(*reinterpret_cast<const ByteVec*>(p), IntVec);
    return __builtin_convertvector(wide, Vec);
  }
};

inline long steps_of(long k) { return std::max(1L, (k + kMaxStep - 1) / kMaxStep); }
inline long step_of(long k) { return (k + steps_of(k) - 1) / steps_of(k); }

// Rows of activations as they lie, and six by six (see pack_rows).
struct Spread {
  const float* data;
  long row;
  INLINE float at(long m, long i) const { return data[m * row + i]; }
  INLINE Spread from(long m, long i) const { return {data + m * row + i, row}; }
};
struct Packed {
  const float* data;
  long k;
  INLINE float at(long m, long i) const { return data[i * MR + m]; }
  INLINE Packed from(long m, long i) const { return {data + m * k + i * MR, k}; }  // m: of a group
};

// c[m][j] (+)= sum over i < k of a[m][i] * b[i][j] for M rows and P panels of 16.
template <int M, int P, class L, class A>
__attribute__((noinline)) void tile(A a, const typename L::T* b, long panel, long k, float* c, long ldc, bool add) {
  constexpr int V = NR / W;
  Vec sums[M][P * V] = {};
  for (long i = 0; i < k; ++i) {
    Vec weights[P * V];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (M <= kFewRows / 2) __builtin_prefetch(b + p * panel + i * NR + kAhead / sizeof(*b));
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) weights[p * V + v] = L::get(b + p * panel + i * NR + v * W);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec x = splat(a.at(m, i));
#pragma GCC unroll 16
      for (int j = 0; j < P * V; ++j) sums[m][j] += x * weights[j];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < P * V; ++j) {
      float* at = c + m * ldc + j * W;
      store(at, add ? load(at) + sums[m][j] : sums[m][j]);
    }
}

// `tile` for any m up to MR.
template <class L, class A>
void tile_of(long m, A a, const typename L::T* b, long k, float* c, long ldc, bool add) {
  switch (m) {
    case 1: return tile<1, 1, L>(a, b, 0, k, c, ldc, add);
    case 2: return tile<2, 1, L>(a, b, 0, k, c, ldc, add);
    case 3: return tile<3, 1, L>(a, b, 0, k, c, ldc, add);
    case 4: return tile<4, 1, L>(a, b, 0, k, c, ldc, add);
    case 5: return tile<5, 1, L>(a, b, 0, k, c, ldc, add);
    default: return tile<6, 1, L>(a, b, 0, k, c, ldc, add);
  }
}

// The same where fewer than 16 columns of c may be touched.
template <class L, class A>
void narrow_tile_of(long m, A a, const typename L::T* b, long k, float* c, long ldc, bool add, long columns) {
  if (columns >= NR) return tile_of<L>(m, a, b, k, c, ldc, add);
  alignas(64) float spare[MR * NR] = {};
  if (add)
    for (long r = 0; r < m; ++r) std::copy_n(c + r * ldc, columns, spare + r * NR);
  tile_of<L>(m, a, b, k, spare, NR, add);
  for (long r = 0; r < m; ++r) std::copy_n(spare + r * NR, columns, c + r * ldc);
}

struct Out {
  float* data;
  long ld;
};

// One step of k, from i on, of one panel's outputs of m rows, `group` at a time.
template <class L, class A>
void panel_step(const Matrix& w, A a, long m, long group, long index, long i, Out y) {
  using T = typename L::T;
  const long step = std::min(step_of(w.k), w.k - i), columns = w.n - index * NR;
  const T* b = static_cast<const T*>(w.data) + (index * w.k + i) * NR;
  // Narrow weights become floats once for all rows.
  static thread_local float wide[kMaxStep * NR];
  const bool widens = sizeof(T) < 4 && m > group;
  if (widens)
    for (long j = 0; j < step * NR; j += W) store(wide + j, L::get(b + j));
  for (long row = 0; row < m; row += group) {
    float* c = y.data + row * y.ld + index * NR;
    const long rows = std::min(group, m - row);
    if (widens) narrow_tile_of<Float32>(rows, a.from(row, i), wide, step, c, y.ld, i > 0, columns);
    else narrow_tile_of<L>(rows, a.from(row, i), b, step, c, y.ld, i > 0, columns);
  }
}

// Scale and bias of some outputs.
inline void finish(const Matrix& w, Out y, long m, long first, long last) {
  if (!w.scale && !w.bias) return;
  for (long row = 0; row < m; ++row)
    for (long j = first; j < last; ++j) {
      float& at = y.data[row * y.ld + j];
      at = (w.scale ? at * w.scale[j] : at) + (w.bias ? w.bias[j] : 0.0f);
    }
}

// P panels' outputs of one or two rows: as many sums as hide the latency of adding to one.
template <int M, int P, class L>
void wide_step(const Matrix& w, Spread a, long index, long i, Out y) {
  const long step = std::min(step_of(w.k), w.k - i), panel = w.k * NR;
  const auto* b = static_cast<const typename L::T*>(w.data) + index * panel + i * NR;
  tile<M, P, L>(a.from(0, i), b, panel, step, y.data + index * NR, y.ld, i > 0);
}

template <class L>
void multiply_few(Member& team, const Matrix& w, Spread a, long m, Out y) {
  constexpr long kPanels = 4;
  const long panels = (w.n + NR - 1) / NR, groups = (m + MR - 1) / MR, group = (m + groups - 1) / groups;
  team.share((panels + kPanels - 1) / kPanels, [&](long task) {
    const long first = task * kPanels, last = std::min(first + kPanels, panels);
    const bool is_whole = last - first == kPanels && last * NR <= w.n;
    for (long i = 0; i < w.k; i += step_of(w.k)) {
      if (m == 1 && is_whole) wide_step<1, 4, L>(w, a, first, i, y);
      else if (m == 2 && is_whole)
        for (long p = first; p < last; p += 2) wide_step<2, 2, L>(w, a, p, i, y);
      else
        for (long p = first; p < last; ++p) panel_step<L>(w, a, m, group, p, i, y);
    }
    finish(w, y, m, first * NR, std::min(last * NR, w.n));
  });
  team.wait();
}

// Groups of MR rows, [ceil(m / MR), k, MR]: products read them from front to back.
inline void pack_rows(Spread x, long m, long k, long group, float* out) {
  const long first = group * MR, num = std::min<long>(MR, m - first);
  float* to = out + first * k;
  for (long r = 0; r < MR; ++r)
    for (long i = 0; i < k; ++i) to[i * MR + r] = x.at(first + std::min(r, num - 1), i);
}

template <class L>
void multiply_many(Member& team, const Matrix& w, Spread x, long m, Out y, float* packed) {
  team.share((m + MR - 1) / MR, [&](long group) { pack_rows(x, m, w.k, group, packed); });
  team.wait();
  const long panels = (w.n + NR - 1) / NR, blocks = (m + kRowBlock - 1) / kRowBlock;
  const long size = ((m + blocks - 1) / blocks + MR - 1) / MR * MR;
  const long width = std::max(1L, std::min(8L, panels / (4 * team.size))), chunks = (panels + width - 1) / width;
  team.share(blocks * chunks, [&](long task) {
    const long row = task / chunks * size, rows = std::min(size, m - row);
    if (rows <= 0) return;
    const long first = task % chunks * width, last = std::min(first + width, panels);
    const Out part{y.data + row * y.ld, y.ld};
    for (long i = 0; i < w.k; i += step_of(w.k))
      for (long p = first; p < last; ++p)
        panel_step<L>(w, Packed{packed + row * w.k, w.k}, rows, MR, p, i, part);
    finish(w, part, rows, first * NR, std::min(last * NR, w.n));
  });
  team.wait();
}

template <class L>
void multiply_as(Member& team, const Matrix& w, Spread x, long m, Out y, float* packed) {
  if (m <= kFewRows) multiply_few<L>(team, w, x, m, y);
  else multiply_many<L>(team, w, x, m, y, packed);
}

// Floats that `multiply` needs beside its arguments.
inline long packed_size(long m, long k) { return m <= kFewRows ? 0 : (m + MR - 1) / MR * MR * k; }

// y [m, n] = x [m, k] * w^T, by all members; ends with a wait. k is at least 1.
inline void multiply(Member& team, const Matrix& w, Spread x, long m, Out y, float* packed) {
  if (m == 0) return;
  if (w.form == kInt8) multiply_as<Int8>(team, w, x, m, y, packed);
  else if (w.form == kBfloat16) multiply_as<Bfloat16>(team, w, x, m, y, packed);
  else multiply_as<Float32>(team, w, x, m, y, packed);
}

// One row of the matrix, as floats.
inline void row_of(const Matrix& w, long n, float* out) {
  const long at = n / NR * w.k * NR + n % NR;
  for (long i = 0; i < w.k; ++i) {
    const long j = at + i * NR;
    if (w.form == kInt8) out[i] = static_cast<const int8_t*>(w.data)[j] * w.scale[n];
    else if (w.form == kFloat32) out[i] = static_cast<const float*>(w.data)[j];
    else {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(w.data)[j]) << 16;
      std::memcpy(out + i, &bits, 4);
    }
  }
}
