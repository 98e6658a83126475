"""Token ids as they travel: packed, so that a long prompt is one object and not sixty thousand."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

TOKEN_BYTES = 4
_FEW = 512
"""So many numbers are looked at sooner than numpy is asked to."""


class TokenIds(Sequence[int]):
    """An immutable sequence of token ids over their wire form, little-endian uint32.

    Equal to any sequence of the same numbers.
    """

    __slots__ = ("packed",)

    def __init__(self, packed: bytes = b"") -> None:
        """Raises ValueError for bytes that are not a whole number of ids."""
        if len(packed) % TOKEN_BYTES:
            raise ValueError(f"{len(packed)} bytes are not a whole number of 4-byte token ids")
        self.packed = packed

    @classmethod
    def of(cls, token_ids: Iterable[int]) -> TokenIds:
        """From numbers; itself for what is packed. Raises OverflowError outside of uint32."""
        if token_ids.__class__ is cls:  # isinstance takes a microsecond: sequences are abstract
            return token_ids
        return cls(array("I", token_ids).tobytes())

    @property
    def highest(self) -> int:
        """The largest id; -1 of none."""
        if len(self.packed) > _FEW * TOKEN_BYTES:
            return int(np.frombuffer(self.packed, "<u4").max())
        return max(self.to_array(), default=-1)

    def view(self) -> memoryview:
        """The ids without a copy."""
        return memoryview(self.packed).cast("I")

    def to_array(self) -> array[int]:
        """A copy that can grow."""
        return array("I", self.packed)

    def followed_by(self, token_ids: Sequence[int]) -> TokenIds:
        """These and then those; itself when there are none."""
        return TokenIds(self.packed + array("I", token_ids).tobytes()) if token_ids else self

    def __len__(self) -> int:
        return len(self.packed) // TOKEN_BYTES

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...
    def __getitem__(self, index: int | slice) -> int | TokenIds:
        if isinstance(index, slice):
            return TokenIds(self.view()[index].tobytes())
        return int(self.view()[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self.view().tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return self.packed == other.packed
        if isinstance(other, list | tuple):
            return len(self) == len(other) and self.view().tolist() == list(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"TokenIds({self.view().tolist()!r})"
