"""Guides as rules of a larger grammar, in llguidance's variant of Lark."""

from __future__ import annotations

import json
import re

from baton.request import Guide, GuideKind

MAX_SPACE_LEN = 16
"""Between two tokens of JSON: weak models would else go on with line breaks for ever."""
JSON_SPACE = rf"[\x20\x0A\x0D\x09]{{1,{MAX_SPACE_LEN}}}"


def answer_rules(guide: Guide) -> list[str]:
    """The rules `answer`, and `spaced` for one behind space, of a guide that is in order."""
    spaced = r"spaced: /\s*/ answer"
    match guide.kind:
        case GuideKind.JSON_SCHEMA:
            return [f"answer: %json {_embedded(guide.source)}", spaced]
        case GuideKind.REGEX:
            # Space and answer in one terminal: the answer may begin with space, too.
            pattern = f"/{_escaped(guide.source)}/"
            terminals = [f"ANSWER: {pattern}", rf"SPACED: /\s*/ {pattern}"]
            return ["answer: ANSWER", "spaced: SPACED", *terminals]
        case GuideKind.LARK:
            return [f"answer: %lark {{\n{guide.source}\n}}", spaced]


def _embedded(source: str) -> str:
    """A schema with the same space as one that stands alone."""
    schema = json.loads(source)
    # `true` is a schema too; `false` is met by nothing, and refused before.
    members = schema if isinstance(schema, dict) else {}
    return json.dumps({**members, "x-guidance": {"whitespace_pattern": JSON_SPACE}})


def _escaped(pattern: str) -> str:
    """Between slashes, and on one line."""

    def written(found: re.Match[str]) -> str:
        return {"/": r"\/", "\n": r"\n"}.get(found[0], found[0])

    return re.sub(r"\\[^\n]|/|\n", written, pattern)
