"""Turns tokens into text as they come, where a text is just its tokens' bytes read as UTF-8."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton.text.model_text import ModelText

_Utf8 = getincrementaldecoder("utf-8")


class ByteDetokenizer:
    """As `IncrementalDetokenizer`, for byte-level vocabularies: a look-up instead of a window.

    Most tokens are whole characters and go out as the strings that `spellings` holds. The others
    pass through an incremental UTF-8 decoder, as does all behind them until it is empty again.
    """

    __slots__ = ("_decoder", "_is_open", "_spell", "_spellings")

    def __init__(self, text: ModelText, skip_special_tokens: bool = True) -> None:
        self._spellings = text.spellings(skip_special_tokens)
        self._spell = self._spellings.__getitem__
        self._decoder: IncrementalDecoder | None = None
        """Made for the first token that is no whole characters: most samples have none."""
        self._is_open = False
        """Whether the decoder holds the beginning of a character."""

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that the new tokens complete; may be empty."""
        parts = []
        for token_id in token_ids:
            spelling = self._spell(token_id)
            if spelling.__class__ is str and not self._is_open:
                parts.append(spelling)
            elif spelling:
                content = spelling.encode() if isinstance(spelling, str) else spelling
                if self._decoder is None:
                    self._decoder = _Utf8("replace")
                parts.append(self._decoder.decode(content))
                self._is_open = bool(self._decoder.getstate()[0])
        return parts[0] if len(parts) == 1 else "".join(parts)

    def flush(self) -> str:
        """The text of what waits, broken characters replaced; for the end of a sample."""
        self._is_open = False
        return "" if self._decoder is None else self._decoder.decode(b"", final=True)


class Spellings(dict[int, str | bytes]):
    """What each token adds to a text: a string where it is whole characters, else bytes.

    Filled as tokens are met, so that a large vocabulary costs nothing at the start.
    """

    def __init__(self, text: ModelText, skip_special_tokens: bool) -> None:
        super().__init__()
        self._text = text
        self._keeps_special = not skip_special_tokens

    def __missing__(self, token_id: int) -> str | bytes:
        spelling: str | bytes
        if self._text.is_silent(token_id, self._keeps_special):
            spelling = ""
        else:
            content = self._text.token_bytes(token_id)
            try:
                spelling = content.decode()
            except UnicodeDecodeError:
                spelling = content
        self[token_id] = spelling
        return spelling
