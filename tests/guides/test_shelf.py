"""How many guides may wait to be made, and who is served meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from baton import guides
from baton.errors import Overloaded
from baton.guides.shelf import MAX_MAKING, Shelf
from baton.request import Guide


class Maker:
    """Makes a guide's source of it, once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.made: list[str] = []

    def __call__(self, guide: Guide) -> str:
        self.gate.wait(20)
        self.made.append(guide.source)
        if guide.source == "broken":
            raise ZeroDivisionError
        return guide.source


def numbered(number: int) -> Guide:
    return guides.of_regex(f"a{{{number}}}")


async def test_too_many_new_guides_are_refused_and_known_ones_are_not() -> None:
    maker = Maker()
    shelf = Shelf(maker, 1024)
    making = [asyncio.create_task(shelf.get(numbered(n))) for n in range(MAX_MAKING)]
    again = [asyncio.create_task(shelf.get(numbered(3))) for _ in range(2 * MAX_MAKING)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match=f"{MAX_MAKING} new guides wait") as caught:
        await shelf.get(numbered(MAX_MAKING))
    assert caught.value.retry_after_s

    maker.gate.set()
    await asyncio.gather(*making)
    assert set(await asyncio.gather(*again)) == {numbered(3).source}
    assert await shelf.get(numbered(MAX_MAKING)) == numbered(MAX_MAKING).source
    assert len(maker.made) == MAX_MAKING + 1
    shelf.close()


async def test_one_that_leaves_takes_the_guide_from_nobody() -> None:
    maker = Maker()
    shelf = Shelf(maker, 4)
    leaver, stayer = (asyncio.create_task(shelf.get(numbered(1))) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    maker.gate.set()

    assert await stayer == numbered(1).source
    shelf.close()


async def test_what_could_not_be_made_is_tried_again() -> None:
    maker = Maker()
    maker.gate.set()
    shelf = Shelf(maker, 4)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await shelf.get(guides.of_regex("broken"))

    assert maker.made == ["broken", "broken"]
    assert len(shelf) == 0
    shelf.close()
