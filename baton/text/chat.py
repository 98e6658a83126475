"""A model's chat template: Jinja as Hugging Face defines it, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baton.errors import InvalidRequest, ModelError

Message = Mapping[str, Any]

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class ChatTemplate:
    """Turns a conversation into a prompt. Holds the templates of one model by name."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        self._special_tokens = dict(special_tokens)
        self._templates = {
            name: _compile(environment, name, source) for name, source in sources.items()
        }

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt with its special tokens. What the template refuses is an `InvalidRequest`.

        `arguments` are a client's own, such as `enable_thinking`; `reserved` names can't be given.
        """
        template = self._choose(with_tools=bool(tools))
        try:
            return template.render(
                {
                    **(arguments or {}),
                    **self._special_tokens,
                    "messages": [dict(message) for message in messages],
                    "tools": list(tools) if tools else None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"messages do not fit the model's chat template: {error}.", field="messages"
            ) from error
        # A template is a program: what it trips over in the messages may surface as any of these.
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise InvalidRequest(
                f"messages made the model's chat template fail: {type(error).__name__}: {error}.",
                field="messages",
            ) from error

    @property
    def reserved(self) -> frozenset[str]:
        """Names that a client's own arguments must not have."""
        return RESERVED | self._special_tokens.keys()

    def _choose(self, with_tools: bool) -> jinja2.Template:
        names = ("tool_use", "default") if with_tools else ("default",)
        for name in names:
            if name in self._templates:
                return self._templates[name]
        known = f"; it has {', '.join(sorted(self._templates))}" if self._templates else ""
        raise InvalidRequest(
            f"messages cannot be used: the model has no default chat template{known}. "
            "Send a prompt as text or token ids.",
            field="messages",
        )


def template_sources(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name: `chat_template.jinja` first, then what `tokenizer_config.json` holds."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return {"default": path.read_text(encoding="utf-8")}
    value = tokenizer_config.get("chat_template")
    match value:
        case None:
            return {}
        case str():
            return {"default": value}
        case list() if all(_is_named_template(entry) for entry in value):
            return {entry["name"]: entry["template"] for entry in value}
    raise ModelError(
        f"chat_template in {folder / 'tokenizer_config.json'} must be a string or a list of "
        "objects with name and template."
    )


def _is_named_template(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    )


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; serving only renders them."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _compile(environment: ImmutableSandboxedEnvironment, name: str, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template {name!r} is not valid Jinja: {error} (line {error.lineno}); "
            "correct it or remove it from the model folder."
        ) from error


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
