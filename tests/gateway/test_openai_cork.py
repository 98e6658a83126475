"""Writes to a corked transport leave together, in order, and never after the end."""

from __future__ import annotations

import asyncio

from services.gateway.openai.cork import MOST_HELD_BYTES, CorkedTransport


class Transport:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told


async def test_writes_of_one_turn_leave_as_one():
    inner = Transport()
    corked = CorkedTransport(inner)

    corked.write(b"head")
    corked.write(b"body")
    assert inner.told == []
    await asyncio.sleep(0)
    corked.write(b"more")
    await asyncio.sleep(0)

    assert inner.told == [b"headbody", b"more"]


async def test_close_comes_behind_what_was_written():
    inner = Transport()
    corked = CorkedTransport(inner)

    corked.write(b"last words")
    corked.close()
    await asyncio.sleep(0)

    assert inner.told == [b"last words", "close"]
    assert corked.is_closing()


async def test_much_does_not_wait():
    inner = Transport()
    corked = CorkedTransport(inner)

    corked.write(b"a")
    corked.write(b"x" * MOST_HELD_BYTES)
    assert inner.told == [b"a" + b"x" * MOST_HELD_BYTES]
    await asyncio.sleep(0)

    assert len(inner.told) == 1
