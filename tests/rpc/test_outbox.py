"""What waits to be written, and who waits for it to be."""

from __future__ import annotations

import asyncio

from baton.rpc.outbox import Outbox


async def test_a_reader_waits_while_nobody_takes_what_it_made() -> None:
    outbox: Outbox[int] = Outbox()
    for part in range(3):
        outbox.put(part)
    await outbox.has_room(3)
    waiting = asyncio.create_task(outbox.has_room(2))
    await asyncio.sleep(0)
    assert not waiting.done()

    batches = outbox.batches()
    assert await anext(batches) == [0, 1, 2]
    await waiting
    await batches.aclose()


async def test_a_closed_outbox_keeps_no_reader() -> None:
    outbox: Outbox[int] = Outbox()
    outbox.put(1)
    waiting = asyncio.create_task(outbox.has_room(0))
    await asyncio.sleep(0)
    outbox.close()

    await waiting
    assert [batch async for batch in outbox.batches()] == [[1]]
