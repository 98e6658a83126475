"""Guides: what an answer must look like, and the matchers that hold an engine to it.

Loads neither torch nor grpc; llguidance, and a model's vocabulary, only when the first guide comes.
"""

from __future__ import annotations

from baton.guides.build import ANY_OBJECT, of_choices, of_grammar, of_regex, of_schema
from baton.guides.checks import GuideChecks
from baton.guides.compiler import GuideCompiler
from baton.guides.matchers import GuideMatchers
from baton.guides.rules import answer_rules

__all__ = [
    "ANY_OBJECT",
    "GuideChecks",
    "GuideCompiler",
    "GuideMatchers",
    "answer_rules",
    "of_choices",
    "of_grammar",
    "of_regex",
    "of_schema",
]
