"""Parsed replies in the form of chat completions: deltas of a stream, and whole messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from baton.text.reply import CallDelta, Delta, ReasoningDelta, TextDelta


def told(deltas: Sequence[Delta], is_first: bool) -> dict[str, Any]:
    """A `delta`. The first of a choice says who speaks."""
    delta: dict[str, Any] = {"role": "assistant", "content": None} if is_first else {}
    text, reasoning = _joined(deltas, TextDelta), _joined(deltas, ReasoningDelta)
    if text:
        delta["content"] = text
    if reasoning:
        delta["reasoning_content"] = reasoning
    calls = [_call_delta(call) for call in merged(deltas)]
    if calls:
        delta["tool_calls"] = calls
    return delta


def message(deltas: Sequence[Delta]) -> dict[str, Any]:
    """A `message`."""
    reasoning = _joined(deltas, ReasoningDelta)
    calls = [
        {"id": call.call_id, "type": "function", "function": _function(call)}
        for call in merged(deltas)
    ]
    return {
        "role": "assistant",
        "content": _joined(deltas, TextDelta) or None,
        "refusal": None,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def merged(deltas: Iterable[Delta]) -> list[CallDelta]:
    """The calls, each in one."""
    calls: dict[int, CallDelta] = {}
    for delta in deltas:
        if isinstance(delta, CallDelta):
            known = calls.get(delta.index)
            if known is not None:
                arguments = known.arguments + delta.arguments
                delta = CallDelta(known.index, arguments, known.call_id, known.name)
            calls[delta.index] = delta
    return list(calls.values())


def _joined(deltas: Sequence[Delta], kind: type[TextDelta] | type[ReasoningDelta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, kind))


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if not call.call_id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.call_id,
        "type": "function",
        "function": _function(call),
    }


def _function(call: CallDelta) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
