"""The text side of one model folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from baton.errors import InvalidRequest, ModelError
from baton.text import folder as files
from baton.text.byte_detokenizer import ByteDetokenizer, Spellings
from baton.text.chat import ChatTemplate, Message, template_sources
from baton.text.detokenizer import IncrementalDetokenizer
from baton.text.dialect import PLAIN, Dialect, dialect_of
from baton.text.encoder import Encoder
from baton.text.folder import GenerationDefaults
from baton.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the JSON files say besides the tokeniser."""

    vocab_size: int
    """Token ids from here on are no tokens of the model."""
    eos_token_ids: tuple[int, ...]
    generation_defaults: GenerationDefaults
    context_len: int
    special_tokens: Mapping[str, str]
    fingerprint: str
    dialect: Dialect = PLAIN


class Detokenizer(Protocol):
    """Turns one sample's tokens into text that never holds half a character."""

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that the new tokens complete; may be empty."""

    def flush(self) -> str:
        """The text of what waits, broken characters replaced; for the end of a sample."""


class ModelText:
    """Text to tokens and back, and chat messages to text, for one model. Threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, encoder: Encoder, template: ChatTemplate, facts: ModelFacts
    ) -> None:
        self.encoder = encoder
        self._tokenizer = tokenizer
        self._template = template
        self.vocab_size = facts.vocab_size
        self.eos_token_ids = facts.eos_token_ids
        self.generation_defaults = facts.generation_defaults
        self.context_len = facts.context_len
        self.special_tokens = facts.special_tokens
        self.fingerprint = facts.fingerprint
        self.dialect = facts.dialect
        self._known_ids = frozenset(tokenizer.get_vocab(with_added_tokens=True).values())
        self.is_within_vocab = max(self._known_ids, default=0) < self.vocab_size
        """Whether no text can yield an id that the model has not."""
        self._special_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        decoders = _decoder_types(tokenizer)
        self._bytes = _byte_tokens(tokenizer) if "ByteFallback" in decoders else {}
        self._is_byte_level = "ByteLevel" in decoders
        self.is_bytes_only = decoders == {"ByteLevel"}
        """Whether a text is just its tokens' bytes one behind the other, read as UTF-8."""
        self._spellings = {skips: Spellings(self, skips) for skips in (False, True)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, by default with the special tokens that go around a prompt.

        Which ones is for tokenizer.json to say; `add_bos_token` in tokenizer_config.json has no
        effect, as in transformers.
        """
        return list(self.encoder.encode(text, add_special_tokens))

    def encode_packed(self, text: str, add_special_tokens: bool = True) -> TokenIds:
        """As `encode`, without a Python object per token."""
        return self.encoder.encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; ids that are no tokens are left out."""
        try:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
        except OverflowError as error:
            raise InvalidRequest(
                f"token_ids must lie from 0 to {self.vocab_size - 1}.", field="token_ids"
            ) from error

    def detokenizer(self, skip_special_tokens: bool = True) -> Detokenizer:
        """Decodes one sample's tokens as they come."""
        if self.is_bytes_only:
            return ByteDetokenizer(self, skip_special_tokens)
        return IncrementalDetokenizer(self, skip_special_tokens)

    def spellings(self, skip_special_tokens: bool) -> Spellings:
        """What each token adds to a text where `is_bytes_only`."""
        return self._spellings[skip_special_tokens]

    def token_text(self, token_id: int) -> str:
        """What one token reads, special ones included; lossy for a part of a character."""
        byte = self.byte_of(token_id)
        if byte is not None:
            return bytes([byte]).decode("utf-8", "replace")
        if token_id not in self._known_ids:
            return ""
        if token_id in self._special_ids:
            return str(self._tokenizer.id_to_token(token_id))
        # Decoded behind itself, since some decoders strip the space of the first token.
        alone = self.decode([token_id], skip_special_tokens=False)
        return self.decode([token_id, token_id], skip_special_tokens=False)[len(alone) :] or alone

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which need not be whole characters."""
        byte = self.byte_of(token_id)
        if byte is not None:
            return bytes([byte])
        if self._is_byte_level and token_id in self._known_ids:
            token = str(self._tokenizer.id_to_token(token_id))
            if all(character in BYTE_OF_CHARACTER for character in token):
                return bytes(BYTE_OF_CHARACTER[character] for character in token)
            if self.is_bytes_only:  # such as an added token with a space
                return token.encode()
        return self.token_text(token_id).encode()

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation. Raises `InvalidRequest` when the template refuses it."""
        return self._template.render(messages, add_generation_prompt, tools, arguments)

    @property
    def reserved_arguments(self) -> frozenset[str]:
        """Names of template arguments that are not for clients to give."""
        return self._template.reserved

    def encode_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of a conversation; special tokens are the template's, none are added."""
        prompt = self.render_chat(messages, add_generation_prompt, tools)
        return self.encode(prompt, add_special_tokens=False)

    @property
    def has_byte_tokens(self) -> bool:
        """Whether characters outside the vocabulary are spelled in tokens of one byte each."""
        return bool(self._bytes)

    def byte_of(self, token_id: int) -> int | None:
        """The byte that a byte token stands for; None for all other tokens."""
        return self._bytes.get(token_id)

    def is_silent(self, token_id: int, keeps_special: bool) -> bool:
        """Whether decoding leaves a token out."""
        if token_id in self._special_ids:
            return not keeps_special
        return token_id not in self._known_ids


def load_text(folder: str | Path) -> ModelText:
    """Reads a Hugging Face model folder. Raises `ModelError`, which says what to do."""
    path = Path(folder)
    if not path.is_dir():
        raise ModelError(
            f"{path} is not a folder; name a folder with config.json and tokenizer.json."
        )
    tokenizer = _load_tokenizer(path)
    tokenizer_config = files.read_optional_json(path / "tokenizer_config.json")
    special_tokens = files.special_tokens(
        files.read_optional_json(path / "special_tokens_map.json"), tokenizer_config
    )
    sources = template_sources(path, tokenizer_config)
    template = ChatTemplate(sources, special_tokens)
    dialect = dialect_of(sources.values(), tokenizer.get_vocab(with_added_tokens=True))
    facts = _facts(path, tokenizer, special_tokens, dialect)
    encoder = Encoder(tokenizer, (path / "tokenizer.json").read_text(encoding="utf-8"))
    return ModelText(tokenizer, encoder, template, facts)


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; write one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library raises plain `Exception` for every broken file.
    except Exception as error:
        raise ModelError(
            f"{path} is not a tokenizer that the tokenizers library can read ({error}); "
            "copy the file again from where the model came from."
        ) from error
    # Some files carry the settings of their training, which would cut prompts without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _facts(
    folder: Path, tokenizer: Tokenizer, special_tokens: Mapping[str, str], dialect: Dialect
) -> ModelFacts:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; name a complete Hugging Face model folder.")
    config = files.read_json(folder / "config.json")
    generation = files.read_optional_json(folder / "generation_config.json")
    vocab_size = config.get("vocab_size")
    if type(vocab_size) is not int or vocab_size < 1:
        vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
    return ModelFacts(
        vocab_size=vocab_size,
        eos_token_ids=files.eos_token_ids(folder, generation, config),
        generation_defaults=files.generation_defaults(folder, generation),
        context_len=files.context_len(folder, config),
        special_tokens=special_tokens,
        fingerprint=files.fingerprint(folder),
        dialect=dialect,
    )


def _byte_tokens(tokenizer: Tokenizer) -> dict[int, int]:
    """Byte by token id, for vocabularies that spell rare characters in tokens like `<0xE2>`."""
    ids = {byte: tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    return {token_id: byte for byte, token_id in ids.items() if token_id is not None}


def _decoder_types(tokenizer: Tokenizer) -> set[str]:
    if tokenizer.decoder is None:
        return set()
    # A decoder's pickled state is its JSON: cheaper than writing out the whole tokenizer.
    settings = json.loads(tokenizer.decoder.__getstate__())
    return {step["type"] for step in settings.get("decoders", [settings])}


def _byte_characters() -> dict[str, int]:
    """How byte-level vocabularies write bytes: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + index): byte for index, byte in enumerate(others)},
    }


BYTE_OF_CHARACTER = _byte_characters()
