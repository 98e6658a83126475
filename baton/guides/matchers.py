"""Matchers for a worker's sequences: compiled once, copied for each, led to where each stands."""

from __future__ import annotations

from collections.abc import Sequence

from baton.errors import InvalidRequest
from baton.guides.compiler import Compiled, GuideCompiler
from baton.guides.matcher import GuideMatcher
from baton.guides.shelf import Shelf
from baton.request import Guide

NUM_KEPT = 32


class GuideMatchers:
    """Matchers of one model's guides; those of the last ones are kept."""

    def __init__(self, compiler: GuideCompiler) -> None:
        self._shelf = Shelf(compiler.compile, NUM_KEPT)

    async def matcher(self, guide: Guide, output: Sequence[int] = ()) -> GuideMatcher:
        """A matcher behind the tokens drawn so far.

        Raises `InvalidRequest` for a guide that cannot be used or that they do not follow.
        """
        return await self._shelf.use(guide, lambda compiled: _led(compiled, output))

    def __len__(self) -> int:
        return len(self._shelf)

    def close(self) -> None:
        """Ends its threads."""
        self._shelf.close()


def _led(compiled: Compiled, output: Sequence[int]) -> GuideMatcher:
    if compiled.matcher is None:
        raise InvalidRequest(f"guide {compiled.fault}", field="guide")
    matcher = compiled.matcher.copy()
    for token_id in output:
        matcher.advance(token_id)
    if matcher.fault:
        raise InvalidRequest(
            f"guide is not followed by the {len(output)} tokens behind the prompt: {matcher.fault}",
            field="guide",
        )
    return matcher
