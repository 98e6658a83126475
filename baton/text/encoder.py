"""Text to packed token ids, by the fastest library that agrees with the model's own tokenizer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from baton.tokens import TokenIds

if TYPE_CHECKING:
    import fastokens

SEGMENT_CACHE_BYTES = 64 << 20
"""Text between special tokens, such as the turns of a conversation, is tokenised once."""

FIRST_PROMPTS = 32
FIRST_LEN = 4_096
LATER_PROMPTS = 1_024
"""The first prompts of up to `FIRST_LEN` characters are tokenised by both libraries and compared;
later one in so many is, however long."""

_QUICK_LEN = {"fastokens": 16_384, "tokenizers": 1_024}
"""Characters that take about a millisecond at most: less than handing them to a thread costs."""


class Encoder:
    """Tokenises with fastokens as long as it gives exactly what tokenizers gives.

    `name` says which library is used, `reason` why, where that is not the fast one. It is compared
    on probes when it is made and on live prompts later; the first difference ends its use for good.
    Threads may share it.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self.reason = ""
        self._exact = tokenizer
        self._fast = self._load(source)
        self._num_prompts = 0

    @property
    def name(self) -> str:
        """The library in use."""
        return "tokenizers" if self._fast is None else "fastokens"

    def is_quick(self, text: str) -> bool:
        """Whether the text may be tokenised on an event loop."""
        return len(text) <= _QUICK_LEN[self.name]

    def encode(self, text: str, add_special_tokens: bool) -> TokenIds:
        """Token ids. Raises `UnicodeEncodeError` for a lone surrogate."""
        fast = self._fast
        if fast is None:
            return self._encode_exactly(text, add_special_tokens)
        packed, _ = fast.encode_batch_flat([text], add_special_tokens)
        ids = TokenIds(packed)
        self._num_prompts += 1
        is_first = self._num_prompts <= FIRST_PROMPTS and len(text) <= FIRST_LEN
        if not is_first and self._num_prompts % LATER_PROMPTS:
            return ids
        exact = self._encode_exactly(text, add_special_tokens)
        if exact != ids:
            self._distrust("a live prompt")
        return exact

    def _encode_exactly(self, text: str, add_special_tokens: bool) -> TokenIds:
        text.encode()  # raises what both libraries are to raise
        ids = self._exact.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return TokenIds.of(ids)

    def _load(self, source: str) -> fastokens.Tokenizer | None:
        try:
            import fastokens
        except ImportError:
            self.reason = "fastokens is not installed"
            return None
        try:
            fast = fastokens.Tokenizer.from_json_str(source)
            fast.no_truncation()
            fast.no_padding()
            fast.enable_segment_cache(SEGMENT_CACHE_BYTES)
            differing = self._first_difference(fast)
        # What it cannot load it refuses with exceptions of many kinds, panics among them.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self.reason = f"fastokens cannot load this tokenizer: {error}"
            return None
        if differing is not None:
            self.reason = f"fastokens differs from tokenizers on {differing!r}"
            return None
        return fast

    def _first_difference(self, fast: fastokens.Tokenizer) -> str | None:
        for text in _probes(self._exact):
            for add_special_tokens in (False, True):
                packed, _ = fast.encode_batch_flat([text], add_special_tokens)
                if TokenIds(packed) != self._encode_exactly(text, add_special_tokens):
                    return text[:80]
        return None

    def _distrust(self, where: str) -> None:
        self._fast = None
        self.reason = f"fastokens differed from tokenizers on {where}"


def _probes(tokenizer: Tokenizer) -> list[str]:
    """Texts on which two implementations of one tokenizer tend to differ."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    plain = [
        "",
        " ",
        "Hello, world! It's 12:34 on 2026-11-24; he'll've paid $1,234.56.",
        "  two  spaces\n\n\nlines\r\n\ttabs \u00a0nbsp\u3000wide\u200bzero ",
        "def f(x):\n    return {'a': [1, 2.5e-7], **x}  # done\n",
        # Accents composed and not, letters that change length with case.
        "Gr\u00f6\u00dfe caf\u00e9 \ufb01 \u00c5 A\u030a e\u0301 \u03a9 \u0130 \u0131 \u017f",
        # Chinese, Japanese, Russian, Hebrew, Arabic, Hindi, Thai, Korean.
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f \u043c\u0438\u0440",
        "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \ud55c\uad6d\uc5b4",
        # Emoji: plain, joined to a family, flags, with a skin colour.
        "\U0001f600\U0001f680 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
        "a" * 300 + "1" * 300 + " " * 300 + "!?" * 100,
        "\x00\x01\x7f\ufeff\ufffd\u2028",
    ]
    glued = [f"{token}x {token} y{token}{token}\n{token}" for token in added[:64]]
    draw = random.Random(7)
    alphabet = "abcdeABC  \n'1290.,;-_/\u00f6\u00df\u4e2d\u6587\U0001f600<|>im_startend"
    noise = ["".join(draw.choices(alphabet, k=draw.randrange(1, 60))) for _ in range(64)]
    return plain + glued + noise
