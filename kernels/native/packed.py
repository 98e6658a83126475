"""Weight matrices packed for the library: float32, bfloat16, or int8 with a factor per output."""

from __future__ import annotations

import mmap
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.native.library import Matrix, find, num_threads

Form = Literal["float32", "bfloat16", "int8"]
FORMS: tuple[Form, ...] = get_args(Form)

_HUGE_PAGE = 1 << 21


class PackedMatrix:
    """A projection `x [T, k] -> x @ weight.T + bias [T, n]` in float32, whatever holds the weights.

    Products and sums are float32; bfloat16 rounds each weight to 8 significant bits, int8 to the
    nearest of 255 multiples of its output's largest weight / 127. An output is summed in one order:
    a row alone equals the row in a batch, bit for bit.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, form: Form) -> None:
        """Packs `weight` [n, k] float32 or bfloat16; `bias` [n] float32 or None."""
        self.n, self.k = weight.shape
        self.form = form
        self._bias = None if bias is None else bias.float().contiguous()
        self._scale: Tensor | None = None
        if form == "int8":
            weight, self._scale = quantise(weight)
        stored = weight.to(getattr(torch, form)).contiguous()
        library = find()
        self._data = room(library.baton_packed_size(self.n, self.k), stored.dtype)
        library.baton_pack(
            stored.data_ptr(), stored.itemsize, self.n, self.k, self._data.data_ptr(), num_threads()
        )
        self.matrix = Matrix(
            self._data.data_ptr(),
            _address(self._scale),
            _address(self._bias),
            self.n,
            self.k,
            FORMS.index(form),
        )

    @property
    def num_bytes(self) -> int:
        """Bytes that a product reads."""
        return self._data.nbytes + (0 if self._scale is None else self._scale.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """The product of rows [T, k] float32."""
        if x.stride(1) != 1:
            x = x.contiguous()
        y = torch.empty(x.shape[0], self.n)
        find().baton_linear(
            self.matrix, x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), num_threads()
        )
        return y

    def rows(self, ids: Tensor) -> Tensor:
        """Rows [len(ids), k] of the weight, float32; `ids` [T] int64."""
        out = torch.empty(len(ids), self.k)
        ids = ids.contiguous()
        find().baton_rows(self.matrix, ids.data_ptr(), len(ids), out.data_ptr(), num_threads())
        return out


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [n, k] as int8 [n, k] and factors [n] float32 whose product comes nearest to it."""
    wide = weight.float()
    scale = wide.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    return (wide / scale[:, None]).round_().to(torch.int8), scale.contiguous()


def room(count: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory on huge pages where the system has them: fewer misses of the TLB."""
    size = max(1, count * dtype.itemsize)
    memory = mmap.mmap(-1, -(-size // _HUGE_PAGE) * _HUGE_PAGE if size > _HUGE_PAGE else size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
