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
constexpr long kBlock = 32;     // groups of MR rows by kMaxStep: 295 KB stay in the second
constexpr long kChunk = 8 * NR;  // outputs at a time: of 32 groups they are 98 KB
constexpr long kFewRows = 12;  // up to here rows are read where they lie

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
    const WordVec wide = widen(reinterpret_cast<const HalfVec*>(p)) << 16;
    return reinterpret_cast<const Vec&>(wide);
  }
};
struct Int8 {
  using T = int8_t;
  static INLINE Vec get(const T* p) {
    return __builtin_convertvector(widen(reinterpret_cast<const ByteVec*>(p)), Vec);
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
  INLINE float at(long m, long i) const { return data[i * MR + m]; }
};

// What is fetched into the second cache while a tile is computed: from each panel, `stride` bytes
// further at each i.
struct Ahead {
  const char* data = nullptr;
  long stride = 0;
};

// c[m][j] (+)= sum over i < k of a[m][i] * b[i][j] for M rows and P panels of 16.
template <int M, int P, class L, class A>
__attribute__((noinline)) void tile(A a, const typename L::T* b, long panel, long k, float* c, long ldc, bool add,
                                    Ahead ahead) {
  constexpr int V = NR / W;
  Vec sums[M][P * V] = {};
  const long next = panel * static_cast<long>(sizeof(*b));
  for (long i = 0; i < k; ++i) {
    Vec weights[P * V];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      __builtin_prefetch(ahead.data + p * next + i * ahead.stride, 0, 2);
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

// `tile` of one panel for any m up to MR.
template <class L, class A>
void tile_of(long m, A a, const typename L::T* b, long k, float* c, long ldc, bool add, Ahead ahead = {}) {
  switch (m) {
    case 1: return tile<1, 1, L>(a, b, 0, k, c, ldc, add, ahead);
    case 2: return tile<2, 1, L>(a, b, 0, k, c, ldc, add, ahead);
    case 3: return tile<3, 1, L>(a, b, 0, k, c, ldc, add, ahead);
    case 4: return tile<4, 1, L>(a, b, 0, k, c, ldc, add, ahead);
    case 5: return tile<5, 1, L>(a, b, 0, k, c, ldc, add, ahead);
    default: return tile<6, 1, L>(a, b, 0, k, c, ldc, add, ahead);
  }
}

struct Out {
  float* data;
  long ld;
};

// Scale and bias of some outputs.
inline void finish(const Matrix& w, Out y, long m, long first, long last) {
  if (!w.scale && !w.bias) return;
  for (long row = 0; row < m; ++row)
    for (long j = first; j < last; ++j) {
      float& at = y.data[row * y.ld + j];
      at = (w.scale ? at * w.scale[j] : at) + (w.bias ? w.bias[j] : 0.0f);
    }
}

// A few rows and their products with P panels at a time: with one or two rows there are as many sums
// as hide the latency of adding to one. Rows beyond MR are a second pass over a panel that the
// caches hold by then.
template <class L>
class FewRows {
 public:
  FewRows(const Matrix& w, Spread a, long m, Out y) : w_(w), a_(a), y_(y) {
    first_ = m > MR ? MR : 0, rest_ = m - first_;
    at_once_ = rest_ == 1 ? 4 : rest_ == 2 ? 2 : 1;
  }

  // Outputs of the panels from `first` on; `next` is what will be read afterwards.
  void multiply(long first, long last, long next) const {
    for (long p = first; p < last;) {
      const long num = last - p < at_once_ ? 1 : at_once_;
      const long then = p + num < last ? p + num : next;
      for (long i = 0; i < w_.k; i += step()) {
        const char* ahead = reinterpret_cast<const char*>(i + step() < w_.k ? at(p, i + step()) : at(then, 0));
        pass(p, num, i, ahead);
      }
      p += num;
    }
  }

 private:
  using T = typename L::T;
  static constexpr long kLine = NR * sizeof(T);

  long step() const { return step_of(w_.k); }
  const T* at(long p, long i) const { return static_cast<const T*>(w_.data) + (p * w_.k + i) * NR; }

  void pass(long p, long num, long i, const char* ahead) const {
    const long k = std::min(step(), w_.k - i), panel = w_.k * NR;
    float* c = y_.data + p * NR;
    if (first_) {
      for (long j = p; j < p + num; ++j)
        tile<MR, 1, L>(a_.from(0, i), at(j, i), 0, k, y_.data + j * NR, y_.ld, i > 0,
                       {ahead + (j - p) * panel * static_cast<long>(sizeof(T)), kLine / 2});
      ahead += k * (kLine / 2);
      c += first_ * y_.ld;
    }
    const Spread a = a_.from(first_, i);
    const Ahead rest{ahead, first_ ? kLine / 2 : kLine};
    if (num == 4) tile<1, 4, L>(a, at(p, i), panel, k, c, y_.ld, i > 0, rest);
    else if (num == 2) tile<2, 2, L>(a, at(p, i), panel, k, c, y_.ld, i > 0, rest);
    else tile_of<L>(rest_, a, at(p, i), k, c, y_.ld, i > 0, rest);
  }

  const Matrix& w_;
  Spread a_;
  Out y_;
  long first_, rest_, at_once_;
};

template <class L>
void multiply_few(Member& team, const Matrix& w, Spread a, long m, Out y) {
  constexpr long kPanels = 4;
  const long panels = (w.n + NR - 1) / NR, whole = w.n / NR;
  team.share((panels + kPanels - 1) / kPanels, [&](long task) {
    const long first = task * kPanels, last = std::min(first + kPanels, panels);
    // Members take turns, mostly.
    FewRows<L>(w, a, m, y).multiply(first, std::min(last, whole), first + kPanels * team.size);
    if (last > whole) {
      // Fewer than 16 columns of y may be touched.
      alignas(64) float spare[kFewRows * NR];
      FewRows<L>(w, a, m, {spare - whole * NR, NR}).multiply(whole, last, last);
      for (long r = 0; r < m; ++r) std::copy_n(spare + r * NR, w.n - whole * NR, y.data + r * y.ld + whole * NR);
    }
    finish(w, y, m, first * NR, std::min(last * NR, w.n));
  });
  team.wait();
}

// Rows in groups of MR or one fewer: a group that is much smaller would take nearly as long.
struct Groups {
  long m, num;
  explicit Groups(long m) : m(m), num((m + MR - 1) / MR) {}
  long first(long group) const { return group * (m / num) + std::min(group, m % num); }
  long size(long group) const { return first(group + 1) - first(group); }
};

// Each group as [k, MR]: products read them from front to back.
inline void pack_rows(Spread x, const Groups& groups, long k, long group, float* out) {
  const long first = groups.first(group), size = groups.size(group);
  float* to = out + group * MR * k;
  for (long r = 0; r < MR; ++r) {
    const float* from = x.data + (first + std::min(r, size - 1)) * x.row;
    for (long i = 0; i < k; ++i) to[i * MR + r] = from[i];
  }
}

// Some groups of packed rows, from `first` to `last`.
struct Block {
  const Groups& groups;
  const float* packed;
  long first, last;
};

// One step of k, from i on, of a panel's outputs of a block. `c` is [rows, kChunk]; of the next panel
// to be read, `next`, each of the first groups fetches a part.
template <class L>
void panel_step(const Matrix& w, const Block& block, long index, long i, float* c, const typename L::T* next) {
  using T = typename L::T;
  // Of each line every group asks for another part, so that all together ask for all of the panel.
  const long parts = std::min(8L, block.last - block.first);
  const long stride = (NR * static_cast<long>(sizeof(T)) + parts - 1) / parts;
  const long step = std::min(step_of(w.k), w.k - i);
  const T* b = static_cast<const T*>(w.data) + (index * w.k + i) * NR;
  const char* ahead = reinterpret_cast<const char*>(next);
  for (long group = block.first; group < block.last; ++group) {
    const long part = group - block.first, rows = block.groups.size(group);
    const Ahead some = part < parts ? Ahead{ahead + part * step * stride, stride} : Ahead{ahead, 0};
    tile_of<L>(rows, Packed{block.packed + (group * w.k + i) * MR}, b, step, c, kChunk, i > 0, some);
    c += rows * kChunk;
  }
}

template <class L>
void multiply_many(Member& team, const Matrix& w, Spread x, long m, Out y, float* packed) {
  const Groups groups(m);
  team.share(groups.num, [&](long group) { pack_rows(x, groups, w.k, group, packed); });
  team.wait();
  const long panels = (w.n + NR - 1) / NR, blocks = (groups.num + kBlock - 1) / kBlock;
  const long size = (groups.num + blocks - 1) / blocks, step = step_of(w.k);
  const long width = std::max(1L, std::min(kChunk / NR, panels / (4 * team.size)));
  const long chunks = (panels + width - 1) / width;
  const auto at = [&](long p, long i) { return static_cast<const typename L::T*>(w.data) + (p * w.k + i) * NR; };
  team.share(blocks * chunks, [&](long task) {
    const long begin = task / chunks * size;
    const Block block{groups, packed, begin, std::min(begin + size, groups.num)};
    if (begin >= groups.num) return;
    const long row = groups.first(begin), rows = groups.first(block.last) - row;
    const long first = task % chunks * width, last = std::min(first + width, panels);
    // Sums stay in the second cache until they are whole: lines of y are far apart.
    static thread_local std::vector<float> sums(kBlock * MR * kChunk);
    for (long i = 0; i < w.k; i += step)
      for (long p = first; p < last; ++p) {
        const auto* next = p + 1 < last ? at(p + 1, i) : i + step < w.k ? at(first, i + step) : at(last, 0);
        panel_step<L>(w, block, p, i, sums.data() + (p - first) * NR, next);
      }
    const long column = first * NR, columns = std::min(last * NR, w.n) - column;
    const Out part{y.data + row * y.ld, y.ld};
    for (long r = 0; r < rows; ++r) std::copy_n(sums.data() + r * kChunk, columns, part.data + r * y.ld + column);
    finish(w, part, rows, column, column + columns);
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
