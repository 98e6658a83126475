"""What a conversation remembers."""

from __future__ import annotations

import pytest

from baton.cli import chat
from baton.cli.answer import Answer
from baton.cli.ask import require_gateway
from baton.cli.chat import Conversation
from baton.cli.errors import CommandError
from baton.client import Final, Sampling
from baton.errors import Overloaded

END = Final("r", "m", 1, 2, 0, (), 0, 0, 0, 0, 1, "")


class FakeClient:
    """Keeps what it was asked; the answers are made by `answering`."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []

    def generate(self, prompt, sampling, **options):
        self.asked.append(list(prompt))


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def answering(monkeypatch):
    """Sets the text of the next answers, or the error they end in."""

    def set_answer(outcome: str | Exception) -> None:
        async def stream(events, write):
            if isinstance(outcome, Exception):
                raise outcome
            return Answer(outcome, 0.1, 0.2, END)

        monkeypatch.setattr(chat, "stream_answer", stream)

    return set_answer


async def test_every_turn_is_asked_with_those_before(client, answering):
    answering("Hello.")
    conversation = Conversation(client, "", "Be kind.", Sampling())

    await conversation.ask("Hi", print)
    await conversation.ask("How are you?", print)

    assert [(turn["role"], turn["content"]) for turn in client.asked[1]] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "How are you?"),
    ]


async def test_failed_turn_is_forgotten(client, answering):
    answering(Overloaded("full"))
    conversation = Conversation(client, "", "", Sampling())

    with pytest.raises(Overloaded):
        await conversation.ask("Hi", print)

    assert conversation.messages == []


async def test_clear_keeps_the_system_message(client, answering):
    answering("Hello.")
    conversation = Conversation(client, "", "Be kind.", Sampling())
    await conversation.ask("Hi", print)

    conversation.clear()

    assert conversation.messages == [{"role": "system", "content": "Be kind."}]


def test_gateway_that_is_not_there_is_a_sentence_with_a_way_out():
    with pytest.raises(CommandError, match=r"nothing answers at 127\.0\.0\.1:1 .*baton up"):
        require_gateway("127.0.0.1:1")


@pytest.mark.parametrize("address", ["localhost", "8500", "host:port", ""])
def test_address_without_port_is_refused(address):
    with pytest.raises(CommandError, match="an address reads host:port"):
        require_gateway(address)
