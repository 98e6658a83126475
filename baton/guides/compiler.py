"""Compiles guides for one model's vocabulary. Blocks for milliseconds: call it in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from baton.guides.rules import JSON_SPACE
from baton.request import Guide, GuideKind

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions

    from baton.guides.matcher import GuideMatcher

MAX_LEXER_STATES = 50_000
"""Of one matcher; a state is 1 to 2 kB."""
MAX_GRAMMAR_SIZE = 100_000


@dataclass(frozen=True, slots=True)
class Compiled:
    """A guide's matcher at its start, or the fault that leaves none; and the processor time."""

    matcher: GuideMatcher | None
    fault: str = ""
    """Completes the sentence that begins with the guide's name."""
    compile_s: float = 0.0
    mask_s: float = 0.0
    """Of the first mask."""


class GuideCompiler:
    """Guides to matchers, for one model folder. Threads may share it."""

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def compile(self, guide: Guide) -> Compiled:
        """Compiles a guide and finds its first mask, which builds what later ones share."""
        # Here, so that a process that sees no guide loads none of it.
        from llguidance import LLMatcher, LLParserLimits

        from baton.guides.matcher import GuideMatcher, reason_of

        try:
            tokenizer = self._load_tokenizer()
        except (OSError, ValueError) as error:
            return Compiled(None, f"cannot be used: this model's tokenizer is not fit, {error}")
        limits = LLParserLimits(
            max_lexer_states=MAX_LEXER_STATES,
            max_grammar_size=MAX_GRAMMAR_SIZE,
            verbose_errors=False,
        )
        began = time.thread_time()
        try:
            state = LLMatcher(tokenizer, _grammar(guide), log_level=0, limits=limits)
        except ValueError as error:
            return Compiled(None, f"cannot be compiled: {reason_of(str(error))}")
        if state.is_error():
            return Compiled(None, f"cannot be compiled: {reason_of(state.get_error())}")
        compiled_at = time.thread_time()
        matcher = GuideMatcher(state)
        matcher.fill(np.zeros(-(-self._vocab_size // 32), dtype=np.int32))
        if state.is_error():
            return Compiled(None, "cannot be met by any text")
        return Compiled(matcher, "", compiled_at - began, time.thread_time() - compiled_at)

    def _load_tokenizer(self) -> LLTokenizer:
        """Takes seconds for a large vocabulary, once."""
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokenizer is None:
                source = (self._folder / "tokenizer.json").read_text(encoding="utf-8")
                self._tokenizer = LLTokenizer(
                    source, n_vocab=self._vocab_size, eos_token=self._eos_token_ids or None
                )
            return self._tokenizer


def _grammar(guide: Guide) -> str:
    from llguidance import LLMatcher

    match guide.kind:
        case GuideKind.JSON_SCHEMA:
            # Only schemas that are objects take options; `true` is one too.
            is_object = guide.source.lstrip().startswith("{")
            options: JsonCompileOptions | None = {"whitespace_pattern": JSON_SPACE}
            return LLMatcher.grammar_from_json_schema(guide.source, options if is_object else None)
        case GuideKind.REGEX:
            return LLMatcher.grammar_from_regex(guide.source)
        case GuideKind.LARK:
            return LLMatcher.grammar_from_lark(guide.source)
