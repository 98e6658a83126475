"""`baton generate`: one answer from a running gateway."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from rich.console import Console

from baton.cli.answer import stream_answer, summarize
from baton.cli.errors import CommandError
from baton.client import AsyncClient, Prompt, Sampling

_CONNECT_LIMIT_S = 5.0


def run_generate(
    address: str, model: str, prompt: Prompt, sampling: Sampling, *, is_quiet: bool
) -> int:
    """Text to standard output, figures to standard error. Ctrl-C cancels the request."""

    async def ask() -> None:
        async with AsyncClient(address) as client:
            answer = await stream_answer(client.generate(prompt, sampling, model=model), write)
        write("\n")
        if not is_quiet:
            Console(stderr=True, highlight=False).print(summarize(answer))

    require_gateway(address)
    try:
        asyncio.run(ask())
    except KeyboardInterrupt:
        write("\n")
        return 128 + signal.SIGINT
    return 0


def write(text: str) -> None:
    """To standard output at once, as a stream is meant to be read."""
    sys.stdout.write(text)
    sys.stdout.flush()


def require_gateway(address: str) -> None:
    """Raises CommandError, with what to do, where nothing listens."""
    host, _, port = address.rpartition(":")
    if host == "unix":
        return
    if not host or not port.isdecimal():
        raise CommandError(f"--address is {address!r}; an address reads host:port.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise CommandError(
            f"nothing answers at {address} ({error}); start a gateway with `baton up`, "
            "or name a running one with --address."
        ) from error
