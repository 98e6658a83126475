// Attention of chunks of sequences over their blocks.
//
// Keys are taken in tiles of 64 that begin at multiples of 64, one after the other. So a row's
// result depends neither on the chunk it comes in nor on the batch, bit for bit.
#pragma once

#include <limits>
#include <type_traits>

#include "matrix.h"

constexpr long kTile = 64;    // keys
constexpr long kQueries = 96;  // rows of queries: heads of a group times tokens

// One layer's blocks: key (which 0) or value (1) of a slot at
// data + id * block + which * part + head * head_stride + offset * slot.
struct Arena {
  float* data;
  int64_t block, part, head, slot, block_size;
  float* at(int64_t id, long which, long h, int64_t offset) const {
    return data + id * block + which * part + h * head + offset * slot;
  }
};

struct Heads {
  int64_t num, num_kv, dim;
};

// Who attends to what: B sequences, tokens laid end to end.
struct Chunks {
  const int32_t* tables;
  int64_t table_stride;
  const int32_t* starts;    // [B + 1]
  const int32_t* contexts;  // [B]
  int64_t num;
};

// How a layer departs from plain causal attention.
struct Variant {
  int64_t window = 0;            // tokens that a token sees, itself included; 0: all before it
  double cap = 0;                // scores s become cap * tanh(s / cap); 0: they stay
  const float* sinks = nullptr;  // [heads] a score without a value; null: none
};

struct Attention {
  const float* q;  // [T, heads, dim]
  Heads heads;
  Arena kv;
  Chunks chunks;
  float scale;
  Variant variant;
  float* out;  // as q
};

// A thread's tiles and sums.
struct Scratch {
  std::vector<float> keys, values, queries, scores, out, peak, mass;

  void fit(long rows, long dim) {
    const long wide = (dim + NR - 1) / NR * NR;
    if (rows <= rows_ && wide == wide_) return;
    rows_ = rows, wide_ = wide;
    keys.assign(kTile * wide, 0), values.assign(kTile * wide, 0), scores.assign(rows * kTile, 0);
    queries.assign(rows * wide, 0), out.assign(rows * wide, 0), peak.assign(rows, 0), mass.assign(rows, 0);
  }

 private:
  long rows_ = 0, wide_ = 0;
};

// Rows of W floats as columns of W: to[i * stride + j] = from[j][i].
INLINE void transpose(const float* const* from, long i, float* to, long stride) {
#if defined(__AVX__) && !defined(__AVX512F__)
  Vec rows[W], a[W], b[W];
  for (int j = 0; j < W; ++j) rows[j] = load(from[j] + i);
  for (int j = 0; j < W; j += 2) {
    a[j] = __builtin_shuffle(rows[j], rows[j + 1], IntVec{0, 8, 1, 9, 4, 12, 5, 13});
    a[j + 1] = __builtin_shuffle(rows[j], rows[j + 1], IntVec{2, 10, 3, 11, 6, 14, 7, 15});
  }
  for (int j = 0; j < W; j += 4)
    for (int half = 0; half < 2; ++half) {
      b[j + 2 * half] = __builtin_shuffle(a[j + half], a[j + 2 + half], IntVec{0, 1, 8, 9, 4, 5, 12, 13});
      b[j + 2 * half + 1] = __builtin_shuffle(a[j + half], a[j + 2 + half], IntVec{2, 3, 10, 11, 6, 7, 14, 15});
    }
  for (int j = 0; j < 4; ++j) {
    store(to + j * stride, __builtin_shuffle(b[j], b[j + 4], IntVec{0, 1, 2, 3, 8, 9, 10, 11}));
    store(to + (j + 4) * stride, __builtin_shuffle(b[j], b[j + 4], IntVec{4, 5, 6, 7, 12, 13, 14, 15}));
  }
#else
  for (int j = 0; j < W; ++j)
    for (int r = 0; r < W; ++r) to[r * stride + j] = from[j][i + r];
#endif
}

// Where the keys and values of some tokens lie. Slots beyond `num` are `num - 1`'s.
struct Slots {
  const float *keys[kTile], *values[kTile];
  long num;

  Slots(const Arena& kv, const int32_t* table, long head, long start, long count) : num(count) {
    for (long j = 0; j < num;) {
      const int64_t position = start + j, offset = position % kv.block_size;
      const float *key = kv.at(table[position / kv.block_size], 0, head, offset), *value = key + kv.part;
      for (const long end = std::min(num, j + kv.block_size - offset); j < end; ++j, key += kv.slot, value += kv.slot)
        keys[j] = key, values[j] = value;
    }
    for (long j = num; j < kTile; ++j) keys[j] = keys[num - 1], values[j] = values[num - 1];
  }
};

// Keys and values that a member will read, fetched ahead of it: line by line between other work (all
// at once, they would only be waited for), and beyond the end of a piece, since the last tile of most
// is too short to fetch another by.
class Lead {
 public:
  explicit Lead(const Arena& kv, const Chunks& chunks, long dim)
      : kv_(kv), chunks_(chunks), lines_((dim + 15) / 16), most_(kBytes / (8 * dim)) {}

  // A sequence at a key head is read from token `first` on, then another from its beginning, if that
  // is known.
  void begin(long sequence, long head, long first, long then_sequence, long then_head) {
    if (!was_foreseen_ || sequence != sequence_ || head != head_) turn_to(sequence, head, first), lead_ = 0;
    was_foreseen_ = false;
    then_sequence_ = then_sequence, then_head_ = then_head;
  }

  // Some tokens more were read.
  void read(long num) { lead_ -= num; }

  // Fetches so many lines of keys and of values, twice as many until the lead is long enough.
  INLINE void fetch(long lines) {
    for (lines = lead_ < most_ ? 2 * lines : lines; lines > 0 && at_ < end_; --lines) {
      __builtin_prefetch(key_ + line_ * 16, 0, 3);
      __builtin_prefetch(key_ + kv_.part + line_ * 16, 0, 3);
      if (++line_ == lines_) next();
    }
  }

 private:
  static constexpr long kBytes = 1 << 13;  // of keys and values: four times as much is slower

  void next() {
    line_ = 0, ++lead_, ++at_;
    if (at_ == end_ && then_sequence_ >= 0) {
      turn_to(then_sequence_, then_head_, 0);
      then_sequence_ = -1, was_foreseen_ = true;
    } else if (--left_ == 0 && at_ < end_) {
      locate();
    } else {
      key_ += kv_.slot;
    }
  }

  void turn_to(long sequence, long head, long first) {
    sequence_ = sequence, head_ = head, at_ = first, end_ = chunks_.contexts[sequence], line_ = 0;
    if (at_ < end_) locate();
  }

  void locate() {
    const int64_t offset = at_ % kv_.block_size;
    key_ = kv_.at(chunks_.tables[sequence_ * chunks_.table_stride + at_ / kv_.block_size], 0, head_, offset);
    left_ = kv_.block_size - offset;
  }

  const Arena& kv_;
  const Chunks& chunks_;
  const long lines_, most_;
  long sequence_ = -1, head_ = -1, at_ = 0, end_ = 0, line_ = 0, left_ = 0, lead_ = 0;
  long then_sequence_ = -1, then_head_ = -1;
  const float* key_ = nullptr;
  bool was_foreseen_ = false;
};

// Keys as panels [4, dim, 16]; what stands beyond the last key is never used. Fetches what comes later.
inline void take_keys(const Slots& slots, Lead& lead, long dim, float* keys) {
  for (long j = 0; j < slots.num; j += W) {
    float* to = keys + j / NR * dim * NR + j % NR;
    long i = 0;
    for (; i + W <= dim; i += W) {
      transpose(slots.keys + j, i, to + i * NR, NR);
      lead.fetch(W * W / 16);
    }
    for (; i < dim; ++i)
      for (int r = 0; r < W; ++r) to[i * NR + r] = slots.keys[j + r][i];
  }
  lead.read(slots.num);
}

// Values as panels [wide / 16, 64, 16].
inline void take_values(const Slots& slots, long dim, float* values) {
  for (long i = 0; i < dim; i += NR)
    for (long j = 0; j < slots.num; ++j)
      std::copy_n(slots.values[j] + i, std::min<long>(NR, dim - i), values + i * kTile + j * NR);
}

// `tile` of M rows of weights and P panels of values where they lie.
template <int M, int P>
__attribute__((noinline)) void mix(const float* scores, const Slots& slots, long column, float* c, long ldc) {
  constexpr int V = P * NR / W;
  Vec sums[M][V] = {};
  for (long i = 0; i < slots.num; ++i) {
    const float* values = slots.values[i] + column;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec x = splat(scores[m * kTile + i]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[m][v] += x * load(values + v * W);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* at = c + m * ldc + v * W;
      store(at, load(at) + sums[m][v]);
    }
}

// out [m, wide] += weights [m, 64] * values, for up to MR rows and whole panels of values.
inline void mix_few(long m, const float* scores, const Slots& slots, long dim, float* out) {
  const auto two = [&](auto rows) {
    long i = 0;
    for (; i + 2 * NR <= dim; i += 2 * NR) mix<rows, 2>(scores, slots, i, out + i, dim);
    if (i < dim) mix<rows, 1>(scores, slots, i, out + i, dim);
  };
  const auto one = [&](auto rows) {
    for (long i = 0; i < dim; i += NR) mix<rows, 1>(scores, slots, i, out + i, dim);
  };
  switch (m) {
    case 1: return two(std::integral_constant<int, 1>());
    case 2: return two(std::integral_constant<int, 2>());
    case 3: return two(std::integral_constant<int, 3>());
    case 4: return one(std::integral_constant<int, 4>());
    case 5: return one(std::integral_constant<int, 5>());
    default: return one(std::integral_constant<int, 6>());
  }
}

// scores [m, 64] of up to MR queries; two panels of keys at a time where registers allow.
inline void score(long m, const float* queries, const float* keys, long dim, long padded, float* scores) {
  const Spread from{queries, dim};
  long j = 0;
  for (; m <= 3 && j + 2 * NR <= padded; j += 2 * NR) {
    const auto of = [&](auto rows) {
      tile<rows, 2, Float32>(from, keys + j * dim, dim * NR, dim, scores + j, kTile, false, {});
    };
    if (m == 1) of(std::integral_constant<int, 1>());
    else if (m == 2) of(std::integral_constant<int, 2>());
    else of(std::integral_constant<int, 3>());
  }
  for (; j < padded; j += NR) tile_of<Float32>(m, from, keys + j * dim, dim, scores + j, kTile, false);
}

constexpr float kNone = -std::numeric_limits<float>::infinity();

// cap * tanh(s / cap), by tanh x = 1 - 2 / (e^(2 x) + 1).
INLINE void cap_scores(float* scores, long num, float cap) {
  for (long j = 0; j < num; j += W)
    store(scores + j, cap - 2.0f * cap / (exp_of(load(scores + j) * (2.0f / cap)) + 1.0f));
}

// Scores of a row become weights, 0 outside of [first, last); peak and mass follow. Returns by what
// the row's sums so far must be multiplied.
INLINE float soften(float* scores, long first, long last, long padded, float& peak, float& mass) {
  std::fill(scores, scores + std::clamp(first, 0L, padded), kNone);
  std::fill(scores + std::clamp(last, 0L, padded), scores + padded, kNone);
  Vec best = splat(kNone);
  for (long j = 0; j < padded; j += W) best = largest(best, load(scores + j));
  const float next = std::max(peak, largest_of(best));
  if (next == kNone) {
    std::fill_n(scores, padded, 0.0f);
    return 1.0f;
  }
  Vec sums{};
  for (long j = 0; j < padded; j += W) {
    const Vec weight = exp_of(load(scores + j) - next);
    store(scores + j, weight);
    sums += weight;
  }
  const float factor = peak == next ? 1.0f : exp_of(splat(peak - next))[0];
  peak = next;
  mass = mass * factor + sum_of(sums);
  return factor;
}

// Some tokens of one sequence at one key head: rows are tokens by heads of the group.
struct Piece {
  long sequence, head, first, num;  // tokens of the chunk
};

// Slots of the tile that begins at `tile` and ends at `end` at the latest, at a key head.
inline Slots slots_of(const Attention& a, long sequence, long head, long tile, long end) {
  const int32_t* table = a.chunks.tables + sequence * a.chunks.table_stride;
  return Slots(a.kv, table, head, tile, std::min(kTile, end - tile));
}

// `then` is what the member will probably take next; null: nothing, or nobody knows.
inline void attend(const Piece& piece, const Piece* then, const Attention& a, Lead& lead) {
  static thread_local Scratch s;
  const long dim = a.heads.dim, wide = (dim + NR - 1) / NR * NR, group = a.heads.num / a.heads.num_kv;
  const long start = a.chunks.starts[piece.sequence], rows = piece.num * group;
  const long length = a.chunks.starts[piece.sequence + 1] - start;
  const long position = a.chunks.contexts[piece.sequence] - length + piece.first;  // of the first token
  const long end = position + piece.num, window = a.variant.window ? a.variant.window : end;
  const auto row_at = [&](long row) {
    return ((start + piece.first + row / group) * a.heads.num + piece.head * group + row % group) * dim;
  };
  s.fit(std::max(kQueries, rows), dim);
  for (long row = 0; row < rows; ++row) {
    const float* from = a.q + row_at(row);
    for (long i = 0; i < dim; ++i) s.queries[row * dim + i] = from[i] * a.scale;
    const float* sinks = a.variant.sinks;
    s.peak[row] = sinks ? sinks[piece.head * group + row % group] : kNone;
    s.mass[row] = sinks ? 1.0f : 0.0f;
  }
  std::fill_n(s.out.begin(), rows * wide, 0.0f);
  // A few rows read values where they lie; for many it pays to lay them out.
  const bool in_place = rows <= MR && dim % NR == 0;
  const long first = std::max(0L, position + 1 - window) / kTile * kTile;
  lead.begin(piece.sequence, piece.head, first, then ? then->sequence : -1, then ? then->head : -1);
  for (long tile = first; tile < end; tile += kTile) {
    const long num = std::min(kTile, end - tile), padded = (num + NR - 1) / NR * NR;
    const Slots slots = slots_of(a, piece.sequence, piece.head, tile, end);
    take_keys(slots, lead, dim, s.keys.data());
    if (!in_place) take_values(slots, dim, s.values.data());
    // Tokens before the tile see nothing of it.
    for (long row = std::max(0L, tile - position) * group; row < rows; row += MR) {
      const long some = std::min<long>(MR, rows - row);
      float* scores = s.scores.data() + row * kTile;
      score(some, s.queries.data() + row * dim, s.keys.data(), dim, padded, scores);
      for (long r = row; r < row + some; ++r) {
        const long seen = position + r / group + 1 - tile;
        float* of = s.scores.data() + r * kTile;
        if (a.variant.cap > 0) cap_scores(of, padded, static_cast<float>(a.variant.cap));
        const float factor = soften(of, seen - window, std::min(num, seen), padded, s.peak[r], s.mass[r]);
        float* sums = s.out.data() + r * wide;
        if (factor != 1.0f)
          for (long i = 0; i < wide; i += W) store(sums + i, load(sums + i) * factor);
      }
      if (in_place) {
        mix_few(some, scores, slots, dim, s.out.data() + row * wide);
        continue;
      }
      for (long i = 0; i < wide; i += NR)
        tile_of<Float32>(some, Spread{scores, kTile}, s.values.data() + i * kTile, num,
                         s.out.data() + row * wide + i, wide, true);
    }
  }
  for (long row = 0; row < rows; ++row) {
    float* to = a.out + row_at(row);
    const float factor = 1.0f / s.mass[row];
    for (long i = 0; i < dim; ++i) to[i] = s.out[row * wide + i] * factor;
  }
}

// All chunks, by all members; ends with a wait.
inline void attend_all(Member& team, const Attention& a) {
  const Chunks& chunks = a.chunks;
  const long most = std::max(1L, kQueries * a.heads.num_kv / a.heads.num);
  const auto pieces_of = [&](long b) { return (chunks.starts[b + 1] - chunks.starts[b] + most - 1) / most; };
  long pieces = 0;
  for (long b = 0; b < chunks.num; ++b) pieces += pieces_of(b);
  // From the end: the last tokens of a prompt see most and take longest. A member's tasks ascend,
  // so each search goes on where the last one ended.
  long sequence = chunks.num, before = pieces;
  Lead lead(a.kv, chunks, a.heads.dim);
  team.share(pieces * a.heads.num_kv, [&](long task) {
    const long wanted = pieces - 1 - task / a.heads.num_kv;
    while (before > wanted) before -= pieces_of(--sequence);
    const long first = (wanted - before) * most, length = chunks.starts[sequence + 1] - chunks.starts[sequence];
    const Piece piece{sequence, task % a.heads.num_kv, first, std::min(most, length - first)};
    // Where each sequence is one piece, the one that a member takes next is known, mostly.
    const long next = task + team.size;
    const bool is_known = pieces == chunks.num && next < pieces * a.heads.num_kv && !a.variant.window;
    const Piece then{pieces - 1 - next / a.heads.num_kv, next % a.heads.num_kv, 0, 1};
    attend(piece, is_known ? &then : nullptr, a, lead);
  });
  team.wait();
}
