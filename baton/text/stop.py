"""Finds stop strings in text that arrives in pieces, and never lets a part of one out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(slots=True)
class _State:
    """A node of the Aho-Corasick automaton: a prefix of at least one stop string."""

    depth: int
    next: dict[str, _State] = field(default_factory=dict)
    fallback: _State | None = None
    """The longest proper suffix of this prefix that is a prefix, too."""
    hit: str = ""
    """The longest stop string that ends here."""


class StopStrings:
    """Scans one sample's text for stop strings.

    The match that is complete first wins; among those complete at the same character, the longest.
    So what is found does not depend on where the text was cut, and no further token is needed once
    a string is complete. Time is linear in the text, whatever the strings.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._root = _automaton(tuple(stops))
        self._state = self._root
        self._held = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not self._root.next

    def push(self, text: str, enabled: bool = True) -> tuple[str, str | None]:
        """Returns the text that may go out, and the stop string that ended the sample, if one did.

        The stop string and all behind it are dropped. With `enabled` False (before `min_tokens`)
        the text passes unseen: nothing in it can be a part of a match now or later.
        """
        if not enabled or self.is_empty:
            return self.flush() + text, None
        buffered = self._held + text
        for index, character in enumerate(text, start=len(self._held)):
            self._state = _advance(self._root, self._state, character)
            if self._state.hit:
                hit = self._state.hit
                self._forget()
                return buffered[: index + 1 - len(hit)], hit
        # The state is the longest suffix that could begin a stop string: just that is kept back.
        safe_len = len(buffered) - self._state.depth
        self._held = buffered[safe_len:]
        return buffered[:safe_len], None

    def flush(self) -> str:
        """The text kept back; for the end of a sample."""
        held = self._held
        self._forget()
        return held

    def _forget(self) -> None:
        self._held = ""
        self._state = self._root


def _advance(root: _State, state: _State, character: str) -> _State:
    while character not in state.next and state.fallback is not None:
        state = state.fallback
    return state.next.get(character, root)


# The samples of a request share one; nobody changes it once it is made.
@lru_cache(maxsize=32)
def _automaton(stops: tuple[str, ...]) -> _State:
    root = _State(depth=0)
    for stop in stops:
        node = root
        for character in stop:
            node = node.next.setdefault(character, _State(depth=node.depth + 1))
        if node is not root:
            node.hit = stop
    _link(root)
    return root


def _link(root: _State) -> None:
    # Breadth first, so that a node's fallback, which is shorter, is complete before it.
    pending = deque([root])
    while pending:
        node = pending.popleft()
        for character, child in node.next.items():
            above = node.fallback
            child.fallback = root if above is None else _advance(root, above, character)
            child.hit = child.hit or child.fallback.hit
            pending.append(child)
