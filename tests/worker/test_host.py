"""How an engine's news reach the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from echo import make_echo_engine

from baton.worker.host import EngineHost


async def test_news_behind_one_that_nobody_could_take_are_taken() -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    no_guides: Any = None
    host = EngineHost(make_echo_engine(), lambda engine: None, no_guides)
    taken: asyncio.Future[str] = loop.create_future()

    def refuse(value: str) -> None:
        raise ValueError(value)

    host.reply(refuse, "first")
    host.reply(taken.set_result, "second")

    assert await taken == "second"
    assert [str(context["exception"]) for context in told] == ["first"]
