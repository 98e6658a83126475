"""Small arrays on their way between the host and the device that computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Exchange:
    """Copies that do not wait for what the device still computes: on a GPU from pinned memory."""

    def __init__(self, device: torch.device, *, is_pinned: bool = True) -> None:
        """Not `is_pinned`: plain copies, which wait; there to measure what pinning is worth."""
        self.device = device
        self._is_pinned = is_pinned and device.type == "cuda"

    def up(self, array: NDArray[Any]) -> Tensor:
        """The array on the device; on a CPU it shares the array's memory. Dense arrays only."""
        tensor = torch.from_numpy(array)
        if not self._is_pinned:
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def up_into(self, target: Tensor, array: NDArray[Any]) -> None:
        """The same into a tensor that stays."""
        source = torch.from_numpy(array)
        if self._is_pinned:
            source = source.pin_memory()
        target.copy_(source, non_blocking=self._is_pinned)

    def down(self, *tensors: Tensor) -> Arrival:
        """Begins to copy tensors to the host, as they are at this place of the stream."""
        if not self._is_pinned:
            return Arrival([tensor.to("cpu", copy=True) for tensor in tensors], None)
        copies = [torch.empty_like(t, device="cpu", pin_memory=True) for t in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return Arrival(copies, event)


class Arrival:
    """Copies that may still be on their way."""

    def __init__(self, copies: Sequence[Tensor], event: torch.cuda.Event | None) -> None:
        self._copies = copies
        self._event = event

    def wait(self) -> list[list[Any]]:
        """Their values, as soon as all are there."""
        if self._event is not None:
            self._event.synchronize()
        return [copy.tolist() for copy in self._copies]
