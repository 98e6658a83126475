"""Rotary position embedding: each position's angles, scaled for long contexts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baton.engine.model.config import RopeConfig
from kernels.qk_norm_rope_write import Rotary

_MIN_TABLE_LEN = 1024


class Rope:
    """Turns positions into rotations; on a CPU it keeps those of all up to the highest."""

    def __init__(self, config: RopeConfig, head_dim: int, device: str) -> None:
        # On the CPU whatever the device, so that all workers of a model rotate by the same
        # frequencies.
        frequencies = _FREQUENCIES[config.rope_type](config, head_dim)
        self._frequencies = torch.cat((frequencies, frequencies)).to(device)
        self._scale = _yarn_scale(config) if config.rope_type == "yarn" else 1.0
        self._table: Rotary | None = None

    def at(self, positions: Tensor) -> Rotary:
        """The rotations of positions [T]."""
        if positions.device.type != "cpu":
            return self._computed(positions)
        # torch's cosine and sine of a few rows take a CPU as long as a small layer.
        table = self._table_of(1 + int(positions.max()) if len(positions) else 0)
        return Rotary(table.cos.index_select(0, positions), table.sin.index_select(0, positions))

    def _table_of(self, num_positions: int) -> Rotary:
        """The rotations of so many positions or more, from 0 on."""
        if self._table is None or len(self._table.cos) < num_positions:
            table_len = max(_MIN_TABLE_LEN, 1 << (num_positions - 1).bit_length())
            self._table = self._computed(torch.arange(table_len))
        return self._table

    def _computed(self, positions: Tensor) -> Rotary:
        angles = positions[:, None].float() * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        if self._scale != 1.0:
            cos, sin = cos * self._scale, sin * self._scale
        return Rotary(cos, sin)


def _default(config: RopeConfig, head_dim: int) -> Tensor:
    """Angle per position of each pair of dimensions: [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return 1.0 / (config.theta**exponents)


def _linear(config: RopeConfig, head_dim: int) -> Tensor:
    return _default(config, head_dim) / config.number("factor")


def _llama3(config: RopeConfig, head_dim: int) -> Tensor:
    """Long waves are stretched by the factor, short ones stay, those between are blended."""
    frequencies = _default(config, head_dim)
    factor = config.number("factor")
    low, high = config.number("low_freq_factor"), config.number("high_freq_factor")
    trained_len = config.number("original_max_position_embeddings")
    wave_lens = 2 * math.pi / frequencies
    stretched = torch.where(wave_lens > trained_len / low, frequencies / factor, frequencies)
    share = (trained_len / wave_lens - low) / (high - low)
    blended = (1 - share) * stretched / factor + share * stretched
    is_between = (wave_lens >= trained_len / high) & (wave_lens <= trained_len / low)
    return torch.where(is_between, blended, stretched)


def _yarn(config: RopeConfig, head_dim: int) -> Tensor:
    """Dimensions that turn often over the trained length stay, slow ones are stretched."""
    periods = config.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    trained_len = config.number("original_max_position_embeddings")

    def dimension(num_turns: float) -> float:
        turns = trained_len / (num_turns * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(config.theta))

    first = dimension(config.number("beta_fast", 32))
    last = dimension(config.number("beta_slow", 1))
    if config.parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (config.number("factor") * periods) * (1 - kept) + 1.0 / periods * kept


def _yarn_scale(config: RopeConfig) -> float:
    """By how much YaRN sharpens attention: a factor on cosine and sine."""
    if config.parameters.get("attention_factor") is not None:
        return config.number("attention_factor")
    factor = config.number("factor")
    if config.parameters.get("mscale") and config.parameters.get("mscale_all_dim"):
        over = _log_scale(factor, config.number("mscale"))
        return over / _log_scale(factor, config.number("mscale_all_dim"))
    return _log_scale(factor, 1.0)


def _log_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


_FREQUENCIES = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
