// A whole step of a decoder: embedding, layers, norm and head, in one run of the team.
#pragma once

#include "attention.h"
#include "elementwise.h"

struct Layer {
  const float* attention_norm;
  const float* qk_norm;  // [num + num_kv, dim] or null
  const float* mlp_norm;
  Matrix qkv, output, gate_up, down;
};

struct Model {
  const Layer* layers;
  const float* norm;
  const float* embedding;  // [vocab, hidden]; null: the head's rows
  Matrix head;
  Heads heads;
  int64_t num_layers, hidden, inner;
  double eps, qk_eps, scale;
};

// The rotation of each token: [T, dim] each.
struct Rotary {
  const float *cos, *sin;
  int64_t dim;
};

struct Batch {
  const int64_t *token_ids, *slot_blocks, *slot_offsets;  // [T]
  Rotary rotary;
  const int64_t* sample_rows;                             // [S]
  Chunks chunks;
  int64_t num_tokens, num_samples;
  Arena kv;  // of layer 0
  int64_t layer_stride;
  float* logits;  // [S, vocab]
};

// Token t's heads, normed and turned: queries go to q [heads, dim], keys and values into their slot.
inline void turn_and_write(const float* qkv, const float* norm, double eps, const Rotary& rotary, long t,
                           const Heads& heads, const Arena& kv, int64_t block, int64_t offset, float* q) {
  const float *cos = rotary.cos + t * rotary.dim, *sin = rotary.sin + t * rotary.dim;
  const long dim = heads.dim;
  for (long h = 0; h < heads.num; ++h)
    turn_head(qkv + h * dim, norm ? norm + h * dim : nullptr, eps, cos, sin, rotary.dim, dim, q + h * dim);
  for (long h = 0; h < heads.num_kv; ++h) {
    const long at = heads.num + h;
    turn_head(qkv + at * dim, norm ? norm + at * dim : nullptr, eps, cos, sin, rotary.dim, dim,
              kv.at(block, 0, h, offset));
    std::copy_n(qkv + (at + heads.num_kv) * dim, dim, kv.at(block, 1, h, offset));
  }
}

class Step {
 public:
  Step(const Model& model, const Batch& batch) : m_(model), b_(batch) {
    // Rows may be drawn from more than once.
    const long tokens = std::max(b_.num_tokens, b_.num_samples), widest = std::max({m_.hidden, m_.inner, m_.heads.num * m_.heads.dim});
    qkv_width_ = (m_.heads.num + 2 * m_.heads.num_kv) * m_.heads.dim;
    long size = 0;
    const auto take = [&](long floats) { return std::exchange(size, size + (floats + 15) / 16 * 16); };
    const long residual = take(tokens * m_.hidden), x = take(tokens * m_.hidden), y = take(tokens * m_.hidden);
    const long qkv = take(tokens * qkv_width_), q = take(tokens * m_.heads.num * m_.heads.dim);
    const long attended = take(tokens * m_.heads.num * m_.heads.dim), gate_up = take(2 * tokens * m_.inner);
    const long packed = take(packed_size(tokens, widest));
    const long samples = take(b_.num_samples * m_.hidden), heads = take(b_.num_samples * m_.heads.num * m_.heads.dim);
    float* at = room(size);
    residual_ = at + residual, x_ = at + x, y_ = at + y, qkv_ = at + qkv, q_ = at + q;
    attended_ = at + attended, gate_up_ = at + gate_up, packed_ = at + packed;
    sampled_residual_ = at + samples, sampled_attended_ = at + heads;
  }

  void run(Member& team) {
    embed(team);
    Stream stream{residual_, attended_, b_.num_tokens};
    for (long index = 0; index < m_.num_layers; ++index) {
      const Layer& layer = m_.layers[index];
      const bool is_last = index + 1 == m_.num_layers;
      Arena kv = b_.kv;
      kv.data += index * b_.layer_stride;
      attention(team, layer, kv);
      // Only rows to draw from go on; the arena has the others' keys and values by now.
      if (is_last) stream = samples(team);
      mlp(team, layer, stream, is_last ? m_.norm : m_.layers[index + 1].attention_norm);
    }
    multiply(team, m_.head, {x_, m_.hidden}, stream.rows, {b_.logits, m_.head.n}, packed_);
  }

 private:
  // The rows that go on.
  struct Stream {
    float *residual, *attended;
    long rows;
  };

  // Grows, and stays for the next step. Runs follow each other, so one is enough.
  static float* room(long floats) {
    static std::vector<float> floats_;
    if (static_cast<long>(floats_.size()) < floats + 16) {
      floats_.clear();
      floats_.shrink_to_fit();
      floats_.resize(floats + 16);
    }
    const auto at = reinterpret_cast<uintptr_t>(floats_.data());
    return reinterpret_cast<float*>((at + 63) / 64 * 64);
  }

  void embed(Member& team) {
    team.share(b_.num_tokens, [&](long t) {
      float* to = residual_ + t * m_.hidden;
      if (m_.embedding) std::copy_n(m_.embedding + b_.token_ids[t] * m_.hidden, m_.hidden, to);
      else row_of(m_.head, b_.token_ids[t], to);
      norm_row(to, m_.layers[0].attention_norm, m_.eps, m_.hidden, x_ + t * m_.hidden);
    });
    team.wait();
  }

  void attention(Member& team, const Layer& layer, const Arena& kv) {
    const long q_width = m_.heads.num * m_.heads.dim;
    multiply(team, layer.qkv, {x_, m_.hidden}, b_.num_tokens, {qkv_, qkv_width_}, packed_);
    team.share(b_.num_tokens, [&](long t) {
      turn_and_write(qkv_ + t * qkv_width_, layer.qk_norm, m_.qk_eps, b_.rotary, t, m_.heads, kv,
                     b_.slot_blocks[t], b_.slot_offsets[t], q_ + t * q_width);
    });
    team.wait();
    attend_all(team, {q_, m_.heads, kv, b_.chunks, static_cast<float>(m_.scale), {}, attended_});
  }

  Stream samples(Member& team) {
    const long q_width = m_.heads.num * m_.heads.dim;
    team.share(b_.num_samples, [&](long s) {
      const long row = b_.sample_rows[s];
      std::copy_n(residual_ + row * m_.hidden, m_.hidden, sampled_residual_ + s * m_.hidden);
      std::copy_n(attended_ + row * q_width, q_width, sampled_attended_ + s * q_width);
    });
    team.wait();
    return {sampled_residual_, sampled_attended_, b_.num_samples};
  }

  void mlp(Member& team, const Layer& layer, const Stream& stream, const float* next_norm) {
    const long q_width = m_.heads.num * m_.heads.dim;
    multiply(team, layer.output, {stream.attended, q_width}, stream.rows, {y_, m_.hidden}, packed_);
    add_norm(team, stream, layer.mlp_norm);
    multiply(team, layer.gate_up, {x_, m_.hidden}, stream.rows, {gate_up_, 2 * m_.inner}, packed_);
    team.share(stream.rows, [&](long t) {
      float* gate = gate_up_ + 2 * t * m_.inner;
      silu_mul_row(gate, gate + m_.inner, m_.inner, gate);
    });
    team.wait();
    multiply(team, layer.down, {gate_up_, 2 * m_.inner}, stream.rows, {y_, m_.hidden}, packed_);
    add_norm(team, stream, next_norm);
  }

  void add_norm(Member& team, const Stream& stream, const float* weight) {
    team.share(stream.rows, [&](long t) {
      float *sum = stream.residual + t * m_.hidden, *y = y_ + t * m_.hidden;
      for (long i = 0; i < m_.hidden; ++i) sum[i] += y[i];
      norm_row(sum, weight, m_.eps, m_.hidden, x_ + t * m_.hidden);
    });
    team.wait();
  }

  const Model& m_;
  const Batch& b_;
  long qkv_width_;
  float *residual_, *x_, *y_, *qkv_, *q_, *attended_, *gate_up_, *packed_;
  float *sampled_residual_, *sampled_attended_;
};
