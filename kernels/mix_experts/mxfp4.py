"""4-bit floats as ordinary numbers, and back: for the reference, cases and loaders."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.mix_experts import Mxfp4

GROUP = 32
"""Inputs that share a scale."""

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""By the three bits below the sign."""


def widen(matrix: Mxfp4, dtype: torch.dtype = torch.float32) -> Tensor:
    """[..., outputs, inputs]; exact in float32 and bfloat16."""
    numbers = torch.tensor(MAGNITUDES + tuple(-each for each in MAGNITUDES))
    byte = torch.arange(256)
    # A byte's two float32 numbers as one int64: one look-up for both.
    pairs = torch.stack((numbers[byte & 15], numbers[byte >> 4]), -1).view(torch.int64).flatten()
    values = pairs.to(matrix.values.device).index_select(0, matrix.values.flatten().int())
    # A scale's byte is the exponent of a float32.
    scales = (matrix.scales.int() << 23).view(torch.float32)
    wide = values.view(torch.float32).view(*scales.shape, GROUP) * scales[..., None]
    return wide.flatten(-2).to(dtype)


def narrow(matrix: Tensor) -> Mxfp4:
    """The nearest 4-bit floats, under the scale that the OCP MX standard proposes."""
    groups = matrix.float().view(*matrix.shape[:-1], -1, GROUP)
    peak = groups.abs().amax(-1).clamp(min=2.0**-100)
    exponent = peak.log2().floor() - 2  # 4 = 2**2 is the largest power of two of a half
    scaled = torch.ldexp(groups, -exponent[..., None].int())
    magnitudes = torch.tensor(MAGNITUDES, device=matrix.device)
    nearest = (scaled.abs()[..., None] - magnitudes).abs().argmin(-1)
    codes = (nearest + 8 * (scaled < 0)).flatten(-2)
    return Mxfp4(
        values=(codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8),
        scales=(exponent + 127).to(torch.uint8),
    )
