"""Builds guides. Pure: whether a guide can be used is for `Guides.check` to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from baton.request import Guide, GuideKind


def of_schema(schema: Mapping[str, Any] | bool | str) -> Guide:
    """A JSON value that a schema describes; the schema as JSON text or decoded."""
    source = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return Guide(GuideKind.JSON_SCHEMA, source)


def of_regex(pattern: str) -> Guide:
    """A text that a regular expression matches from its first to its last character."""
    return Guide(GuideKind.REGEX, pattern)


def of_choices(choices: Iterable[str]) -> Guide:
    """One of some texts, character for character."""
    return of_regex("|".join("".join(map(_literal, choice)) for choice in choices))


def of_grammar(source: str) -> Guide:
    """A text that a grammar in llguidance's variant of Lark derives from `start`."""
    return Guide(GuideKind.LARK, source)


ANY_OBJECT = of_schema({"type": "object"})
"""Any JSON object."""


def _literal(character: str) -> str:
    """A character as an expression that matches just it."""
    is_plain = character.isascii() and character.isalnum()
    return character if is_plain else f"\\x{{{ord(character):X}}}"
