"""What measuring processes are asked, and what they answer. Plain data: no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.transfer.push import PushJob


@dataclass(frozen=True, slots=True)
class RunPrompts:
    """To an engine: run these one after the other."""

    prompts: Sequence[Sequence[int]]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Ran:
    """From `add` to the step that drew the first token, per prompt; CPU time of all."""

    ttfts_s: list[float]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class DescribeArena:
    """To a target: say what to map."""


@dataclass(frozen=True, slots=True)
class SharedArena:
    """A target's arena in shared memory."""

    name: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class MapArena:
    """To a source: map the target's arena. It answers with the address of its byte stream."""

    arena: SharedArena


@dataclass(frozen=True, slots=True)
class OpenStream:
    """To a target: read blocks from there from now on."""

    address: str


@dataclass(frozen=True, slots=True)
class CopyAll:
    """To a source: copy its whole arena within itself, so many bytes at a time."""

    bytes_at_a_time: int


@dataclass(frozen=True, slots=True)
class Push:
    """To a source: push by this transport, one job after the other."""

    transport: str
    jobs: tuple[PushJob, ...]


@dataclass(frozen=True, slots=True)
class Expect:
    """To a target: these blocks will come over the stream."""

    session_id: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AwaitBlocks:
    """To a target: wait until all expected blocks are in place."""


@dataclass(frozen=True, slots=True)
class Sums:
    """To either: checksums of these blocks."""

    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """When a side began and ended, on the clock all processes share, and its CPU time."""

    began: float
    ended: float
    cpu_s: float
