"""The output items of a response: reasoning, messages and function calls, as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.text.reply import CallDelta, Delta, ReasoningDelta, TextDelta
from services.gateway.openai.pieces import Piece

Event = dict[str, Any]


@dataclass(slots=True)
class Item:
    """One item, of the kind of its deltas."""

    item_id: str
    index: int
    first: Delta
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of its text, or of its arguments."""
        return "".join(self.parts)

    def fits(self, delta: Delta) -> bool:
        """Whether a delta goes on with this item."""
        if isinstance(delta, CallDelta) and isinstance(self.first, CallDelta):
            return delta.index == self.first.index
        return type(delta) is type(self.first)

    def part(self, text: str) -> dict[str, Any]:
        """Its one part."""
        if isinstance(self.first, ReasoningDelta):
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def body(self, status: str) -> dict[str, Any]:
        """The item as it is now."""
        is_new = status == "in_progress"
        if isinstance(self.first, CallDelta):
            return {
                "id": self.item_id,
                "type": "function_call",
                "status": status,
                "call_id": self.first.call_id,
                "name": self.first.name,
                "arguments": "" if is_new else self.text,
            }
        content = [] if is_new else [self.part(self.text)]
        if isinstance(self.first, ReasoningDelta):
            return {
                "id": self.item_id,
                "type": "reasoning",
                "summary": [],
                "content": content,
                "status": status,
            }
        return {
            "id": self.item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


class Items:
    """Grows the items of one response, and says each step as events."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._items: list[Item] = []
        self._is_open = False
        self.finish_reason = ""

    def add(self, piece: Piece) -> list[Event]:
        """What a piece changes."""
        self.finish_reason = piece.finish_reason or self.finish_reason
        deltas: Sequence[Delta] = piece.deltas
        if piece.text:
            deltas = (TextDelta(piece.text),)
        events: list[Event] = []
        for delta in deltas:
            if not self._is_open or not self._items[-1].fits(delta):
                events += self.close("completed") + self._open(delta)
            item = self._items[-1]
            news = delta.arguments if isinstance(delta, CallDelta) else delta.text
            item.parts.append(news)
            if news:
                events.append(_event(item, "delta", delta=news))
        return events

    def close(self, status: str) -> list[Event]:
        """Ends the item that grows, if any."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self._items[-1]
        output_item = {"output_index": item.index, "item": item.body(status)}
        done = {"type": "response.output_item.done", **output_item}
        if isinstance(item.first, CallDelta):
            return [_event(item, "done", arguments=item.text), done]
        part = _part(item, "response.content_part.done", item.text)
        return [_event(item, "done", text=item.text), part, done]

    def body(self, last_status: str) -> list[dict[str, Any]]:
        """All items; the last may have been cut off."""
        return [
            item.body(last_status if item is self._items[-1] else "completed")
            for item in self._items
        ]

    def _open(self, delta: Delta) -> list[Event]:
        index = len(self._items)
        prefix = {TextDelta: "msg", ReasoningDelta: "rs", CallDelta: "fc"}[type(delta)]
        item = Item(f"{prefix}_{self._request_id}_{index}", index, delta)
        self._items.append(item)
        self._is_open = True
        added: Event = {
            "type": "response.output_item.added",
            "output_index": index,
            "item": item.body("in_progress"),
        }
        if isinstance(delta, CallDelta):
            return [added]
        return [added, _part(item, "response.content_part.added", "")]


def _event(item: Item, verb: str, **members: Any) -> Event:
    place: Event = {"item_id": item.item_id, "output_index": item.index}
    if isinstance(item.first, CallDelta):
        return {"type": f"response.function_call_arguments.{verb}", **place, **members}
    if isinstance(item.first, ReasoningDelta):
        return {"type": f"response.reasoning_text.{verb}", **place, "content_index": 0, **members}
    kind = f"response.output_text.{verb}"
    return {"type": kind, **place, "content_index": 0, "logprobs": [], **members}


def _part(item: Item, kind: str, text: str) -> Event:
    return {
        "type": kind,
        "item_id": item.item_id,
        "output_index": item.index,
        "content_index": 0,
        "part": item.part(text),
    }
