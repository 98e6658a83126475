"""One stream of news from several requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from services.gateway.types import Chunk, Final, Gateway, GenerateCommand

News = tuple[int, Chunk | Final]
"""Which command, and what is new of it."""


async def news_of(
    gateway: Gateway, commands: Sequence[GenerateCommand]
) -> AsyncGenerator[News, None]:
    """News of all commands as they come. Closing it, or an error in one of them, ends them all."""
    if len(commands) == 1:
        async with aclosing(gateway.generate(commands[0])) as items:
            async for item in items:
                yield 0, item
        return
    # One place each: while the client is behind, chunks wait, and merge, where they come from.
    queue: asyncio.Queue[News | BaseException | None] = asyncio.Queue(len(commands))
    pumps = [
        asyncio.create_task(_pump(gateway, command, index, queue))
        for index, command in enumerate(commands)
    ]
    try:
        async for news in _until_all_ended(queue, len(pumps)):
            yield news
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _until_all_ended(
    queue: asyncio.Queue[News | BaseException | None], num_pumps: int
) -> AsyncIterator[News]:
    num_ended = 0
    while num_ended < num_pumps:
        match await queue.get():
            case None:
                num_ended += 1
            case BaseException() as error:
                raise error
            case news:
                yield news


async def _pump(
    gateway: Gateway,
    command: GenerateCommand,
    index: int,
    queue: asyncio.Queue[News | BaseException | None],
) -> None:
    try:
        async with aclosing(gateway.generate(command)) as items:
            async for item in items:
                await queue.put((index, item))
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)
