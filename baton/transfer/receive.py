"""How a decode worker takes in blocks that come as a byte stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from baton.blocks import checksum
from baton.errors import TransferFailed
from baton.transfer.push import Piece


class TargetArena(Protocol):
    """What a receiver writes."""

    def write(self, block_id: int, data: bytes | bytearray | memoryview) -> None:
        """Puts a whole block in place, wherever the arena lies."""


@dataclass(slots=True)
class _Intake:
    """A session's reserved blocks and the block that is coming in."""

    targets: tuple[int, ...]
    on_landed: Callable[[int], None]
    on_broken: Callable[[TransferFailed], None]
    num_landed: int = 0
    partial: bytearray = field(default_factory=bytearray)


class BlockReceiver:
    """Writes pieces into the blocks of open sessions and drops those of closed ones.

    All on one thread: once `close` has returned, no byte of that session is written any more.
    """

    def __init__(self, arena: TargetArena, block_bytes: int) -> None:
        self._arena = arena
        self._block_bytes = block_bytes
        self._intakes: dict[int, _Intake] = {}

    def open(
        self,
        session_id: int,
        targets: tuple[int, ...],
        on_landed: Callable[[int], None],
        on_broken: Callable[[TransferFailed], None],
    ) -> None:
        """Expects blocks for `targets`, in order; `on_landed` is told how many are in place."""
        self._intakes[session_id] = _Intake(targets, on_landed, on_broken)

    def close(self, session_id: int) -> None:
        """Writes nothing more for the session. Idempotent."""
        self._intakes.pop(session_id, None)

    def accept(self, piece: Piece) -> None:
        """Takes in one piece; a wrong one breaks its session."""
        intake = self._intakes.get(piece.session_id)
        if intake is None:
            return
        try:
            self._take(intake, piece)
        except TransferFailed as error:
            self.close(piece.session_id)
            intake.on_broken(error)

    def _take(self, intake: _Intake, piece: Piece) -> None:
        expected = (intake.num_landed, len(intake.partial))
        if (piece.block_index, piece.offset) != expected:
            found = (piece.block_index, piece.offset)
            raise TransferFailed(
                f"piece (block, offset) {found} came where {expected} was expected"
            )
        if piece.block_index >= len(intake.targets):
            raise TransferFailed(
                f"block {piece.block_index} came for a session of {len(intake.targets)} blocks"
            )
        intake.partial += piece.data
        if len(intake.partial) < self._block_bytes:
            return
        if len(intake.partial) > self._block_bytes:
            raise TransferFailed(
                f"a block of {len(intake.partial)} bytes came, blocks have {self._block_bytes}"
            )
        if checksum(intake.partial) != piece.checksum:
            raise TransferFailed(f"block {piece.block_index} came with a wrong checksum")
        self._arena.write(intake.targets[intake.num_landed], intake.partial)
        intake.partial.clear()
        intake.num_landed += 1
        intake.on_landed(intake.num_landed)
