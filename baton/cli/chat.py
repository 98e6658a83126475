"""`baton chat`: a conversation with a running gateway."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from baton.cli.answer import stream_answer
from baton.cli.ask import require_gateway, write
from baton.client import AsyncClient, Message, Sampling
from baton.errors import BatonError, Cancelled, InvalidRequest

HELP = "/clear forgets the conversation, /exit leaves, Ctrl-C ends an answer"


class Conversation:
    """The turns so far, and the asking of the next."""

    def __init__(self, client: AsyncClient, model: str, system: str, sampling: Sampling) -> None:
        self._client = client
        self._model = model
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._sampling = sampling
        self.messages: list[Message] = list(self._opening)

    def clear(self) -> None:
        """Forgets everything but the system message."""
        self.messages = list(self._opening)

    async def ask(self, text: str, write: Callable[[str], None]) -> str:
        """Streams the answer and returns its figures in a few words.

        A turn that was cancelled or failed is forgotten: neither question nor half an answer stays.
        """
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        events = self._client.generate(asked, self._sampling, model=self._model)
        answer = await stream_answer(events, write)
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        return (
            f"TTFT {answer.first_token_s * 1e3:.0f} ms, ITL {answer.between_tokens_s * 1e3:.1f} ms,"
            f" {answer.tokens_per_second:.0f} tokens/s"
        )


def run_chat(address: str, model: str, system: str, sampling: Sampling) -> int:
    """Reads lines until /exit, Ctrl-D, or Ctrl-C at the prompt."""
    require_gateway(address)
    console = Console(highlight=False)

    async def talk() -> None:
        async with AsyncClient(address) as client:
            models = ", ".join(found.name for found in await client.list_models())
            console.print(f"{address} serves {models or 'nothing yet'}. {HELP}.", style="dim")
            conversation = Conversation(client, model, system, sampling)
            while (line := await _read_line()) is not None:
                await _answer(conversation, line, console)

    with suppress(KeyboardInterrupt):
        asyncio.run(talk())
    write("\n")
    return 0


async def _answer(conversation: Conversation, line: str, console: Console) -> None:
    if line.startswith("/"):
        if line == "/clear":
            conversation.clear()
        console.print("forgotten" if line == "/clear" else HELP, style="dim")
        return
    try:
        asking = asyncio.ensure_future(conversation.ask(line, write))
        loop = asyncio.get_running_loop()
        with _on_interrupt(lambda *_: loop.call_soon_threadsafe(asking.cancel)):
            figures = await asking
        console.print(f"\n{figures}", style="dim")
    except (asyncio.CancelledError, Cancelled):
        console.print("\n(ended; this turn is forgotten)", style="dim")
    except InvalidRequest as error:
        console.print(f"\n{error} /clear starts afresh.", style="yellow", markup=False)
    except BatonError as error:
        console.print(f"\n{error}", style="yellow", markup=False)


@contextmanager
def _on_interrupt(handler: Callable[..., object]) -> Iterator[None]:
    """Ctrl-C does this inside the block, instead of ending the program at asyncio's discretion."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _read_line() -> str | None:
    """The next line that says something; None at the end."""
    while True:
        try:
            # On the main thread, so that Ctrl-C reaches it; nothing else runs meanwhile.
            with _on_interrupt(signal.default_int_handler):
                line = input("\n> ").strip()
        except EOFError:
            return None
        if line in ("/exit", "/quit"):
            return None
        if line:
            return line
