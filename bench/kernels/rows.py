"""Jobs of the ops on rows: norms, activations, gathers, queries and keys, sampling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.job import Call, Job, Planned, Setting, size_of
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots
from kernels.sample import SampleRows

EPS = 1e-6


def plan(setting: Setting) -> Iterator[Planned]:
    """At the sizes of a decode step and of a prefill."""
    for rows in setting.sizes.rows:
        hidden, inner = setting.sizes.hidden, setting.sizes.inner
        yield Planned("rms_norm", f"{rows} x {hidden}", partial(_rms_norm, setting, rows))
        yield Planned("add_rms_norm", f"{rows} x {hidden}", partial(_add_rms_norm, setting, rows))
        yield Planned("silu_mul", f"{rows} x {inner}", partial(_silu_mul, setting, rows))
        yield Planned("gelu_tanh_mul", f"{rows} x {inner}", partial(_gelu_mul, setting, rows))
        yield Planned("take_rows", f"{rows} x {hidden}", partial(_take_rows, setting, rows))
        heads = f"{setting.sizes.num_heads} + {setting.sizes.num_kv_heads} heads"
        yield Planned("qk_norm_rope_write", f"{rows} tokens, {heads}", partial(_qk, setting, rows))
    # On GPUs at the size that samplers' published figures are of.
    rows = setting.sizes.rows[0] if setting.device == "cpu" else 64
    for name in ("greedy", "temperature", "top-k and top-p"):
        shape = f"{rows} x {setting.sizes.vocab_size}, {name}"
        yield Planned("sample", shape, partial(_sample, setting, rows, name))


def _rms_norm(setting: Setting, rows: int) -> Job:
    x, weight = setting.numbers(rows, setting.sizes.hidden), setting.numbers(setting.sizes.hidden)
    return Job(
        (x, weight, EPS),
        size_of(x, x, weight),
        composed=lambda: F.rms_norm(x, weight.shape, weight, EPS),
    )


def _add_rms_norm(setting: Setting, rows: int) -> Job:
    x, residual = (setting.numbers(rows, setting.sizes.hidden) for _ in range(2))
    weight = setting.numbers(setting.sizes.hidden)

    def composed() -> tuple[Tensor, Tensor]:
        total = x + residual
        return F.rms_norm(total, weight.shape, weight, EPS), total

    return Job(
        (x, residual, weight, EPS),
        size_of(x, x, x, x, weight),
        composed=composed,
        result=lambda returned: returned[0],
    )


def _silu_mul(setting: Setting, rows: int) -> Job:
    gate_up = setting.numbers(rows, 2 * setting.sizes.inner)
    gate, up = gate_up.chunk(2, -1)
    return Job((gate_up,), size_of(gate_up, gate), composed=lambda: F.silu(gate) * up)


def _gelu_mul(setting: Setting, rows: int) -> Job:
    gate_up = setting.numbers(rows, 2 * setting.sizes.inner)
    gate, up = gate_up.chunk(2, -1)
    return Job(
        (gate_up,),
        size_of(gate_up, gate),
        composed=lambda: F.gelu(gate, approximate="tanh") * up,
    )


def _take_rows(setting: Setting, rows: int) -> Job:
    table = setting.numbers(32_768, setting.sizes.hidden)
    ids = torch.randperm(32_768, device=setting.device)[:rows].contiguous()
    num_bytes = 2 * rows * setting.sizes.hidden * table.itemsize + size_of(ids)
    return Job((table, ids), num_bytes, composed=lambda: F.embedding(ids, table))


def _qk(setting: Setting, rows: int) -> Job:
    sizes = setting.sizes
    num_heads, num_kv, width = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    qkv = setting.numbers(rows, (num_heads + 2 * num_kv) * width)
    weight = setting.numbers(num_heads + num_kv, width)
    angles = torch.outer(torch.arange(rows), 1e6 ** (-torch.arange(0, width, 2) / width))
    angles = angles.repeat(1, 2).to(setting.device)
    rotary = Rotary(angles.cos(), angles.sin())
    num_blocks = -(-rows // sizes.block_size)
    shape = (num_blocks, sizes.num_layers, 2, num_kv, sizes.block_size, width)
    kv = torch.zeros(shape, dtype=setting.dtype, device=setting.device)[:, 1]
    at = torch.arange(rows, device=setting.device)
    slots = Slots(at // sizes.block_size, at % sizes.block_size)

    def composed() -> Tensor:
        heads = qkv.view(rows, -1, width)
        turned = heads[:, : num_heads + num_kv]
        turned = F.rms_norm(turned, (width,), None, EPS) * weight
        low, high = turned.chunk(2, -1)
        swapped = torch.cat((-high, low), -1)
        turned = (turned * rotary.cos[:, None] + swapped * rotary.sin[:, None]).to(setting.dtype)
        kv[slots.blocks, 0, :, slots.offsets] = turned[:, num_heads:]
        kv[slots.blocks, 1, :, slots.offsets] = heads[:, num_heads + num_kv :]
        return turned[:, :num_heads]

    return Job(
        (qkv, QkNorm(weight, EPS), rotary, kv, slots),
        size_of(qkv, qkv, weight, rotary.cos, rotary.sin, at, at),
        composed=composed,
    )


def _sample(setting: Setting, num_rows: int, name: str) -> Job:
    device, vocab_size = setting.device, setting.sizes.vocab_size
    logits = setting.numbers(num_rows, vocab_size, dtype=torch.float32) * 3
    is_filtered = name == "top-k and top-p"
    temperature = 0.0 if name == "greedy" else 0.8
    none: tuple[None, ...] = (None,) * num_rows

    def column(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((num_rows,), value, dtype=dtype, device=device)

    rows = SampleRows(
        temperature=column(temperature),
        top_k=column(50 if is_filtered else 0, torch.int64),
        top_p=column(0.9 if is_filtered else 1.0),
        min_p=column(0.0),
        seed=torch.arange(num_rows, device=device),
        sample_index=column(0, torch.int64),
        output_position=column(7, torch.int64),
        repetition_penalty=column(1.0),
        presence_penalty=column(0.0),
        frequency_penalty=column(0.0),
        prompt_tokens=none,
        output_tokens=none,
        bias_tokens=none,
        bias_values=none,
        allowed=none,
        logprobs_count=none,
    )

    def composed() -> list[int]:
        if name == "greedy":
            return logits.argmax(-1).tolist()
        scaled = logits / 0.8
        if is_filtered:
            scaled, ids = scaled.topk(50, -1)
            shares = scaled.softmax(-1)
            is_over = shares.cumsum(-1) - shares >= 0.9
            drawn = shares.masked_fill(is_over, 0).multinomial(1)
            return ids.gather(1, drawn)[:, 0].tolist()
        return scaled.softmax(-1).multinomial(1)[:, 0].tolist()

    return Job(
        (logits, rows),
        size_of(logits),
        composed=composed,
        result=lambda returned: None,
        is_on_host=True,
        peers=_on_device(logits, rows) if device != "cpu" else {},
    )


def _on_device(logits: Tensor, rows: SampleRows) -> dict[str, Call]:
    """Our own draw in a CUDA graph, where nobody waits for the tokens."""
    from kernels.sample.cuda import draw, pack

    return {"ours in a graph": partial(draw, logits, pack(rows, logits.shape[1]))}
