"""What an answer must look like, in OpenAI's words and in those of vLLM, as one guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from baton import guides
from baton.errors import InvalidRequest
from baton.request import Guide
from services.gateway.openai.errors import shown


@dataclass(frozen=True, slots=True)
class NamedGuide:
    """A guide and the field that asks for it."""

    field: str
    guide: Guide


def guide_of(extra: Mapping[str, Any]) -> NamedGuide | None:
    """The guide that a body's fields ask for. Raises `InvalidRequest`."""
    return _one_guide(extra, {"response_format": _response_format, **_OTHERS})


def response_guide_of(extra: Mapping[str, Any]) -> NamedGuide | None:
    """The same for `/v1/responses`, where `text` says it."""
    return _one_guide(extra, {"text": _text, **_OTHERS})


def _one_guide(extra: Mapping[str, Any], fields: Mapping[str, _Read]) -> NamedGuide | None:
    if not extra:
        return None
    found = [
        named
        for field, read in fields.items()
        if extra.get(field) is not None
        for named in read(field, extra[field])
    ]
    if len(found) > 1:
        names = " and ".join(named.field for named in found)
        raise InvalidRequest(f"{names} cannot be combined; one is allowed.", field=found[1].field)
    return found[0] if found else None


def _response_format(field: str, value: object) -> list[NamedGuide]:
    form = _object(field, value)
    if form.get("type") == "json_schema":
        return _json_schema(f"{field}.json_schema", form.get("json_schema"))
    return _plain_format(field, form)


def _text(field: str, value: object) -> list[NamedGuide]:
    """`format` has the schema's members beside its type."""
    text = _object(field, value)
    if text.get("verbosity") not in (None, "medium"):
        raise _refusal(f"{field}.verbosity", text["verbosity"], "medium; no other is supported")
    if text.get("format") is None:
        return []
    field = f"{field}.format"
    form = _object(field, text["format"])
    if form.get("type") == "json_schema":
        return _json_schema(field, form)
    return _plain_format(field, form)


def _plain_format(field: str, form: Mapping[str, Any]) -> list[NamedGuide]:
    match form.get("type"):
        case "text":
            return []
        case "json_object":
            return [NamedGuide(field, guides.ANY_OBJECT)]
    raise _refusal(f"{field}.type", form.get("type"), "text, json_object or json_schema")


def _json_schema(field: str, value: object) -> list[NamedGuide]:
    """`name`, `description` and `strict` change nothing: every schema is kept to the letter."""
    return _json(f"{field}.schema", _object(field, value).get("schema"))


def _structured_outputs(field: str, value: object) -> list[NamedGuide]:
    parts = _object(field, value)
    # Neutral are null and, for `json_object`, false; what else is there must be understood.
    given = {name: part for name, part in parts.items() if part is not None and part is not False}
    unknown = sorted(given.keys() - _KINDS.keys())
    if unknown:
        name = unknown[0]
        known = ", ".join(_KINDS)
        raise InvalidRequest(
            f"{field}.{name} is {shown(given[name])}, which is not supported; there are {known}.",
            field=f"{field}.{name}",
        )
    return [
        named for name, part in given.items() for named in _KINDS[name](f"{field}.{name}", part)
    ]


def _json(field: str, value: object) -> list[NamedGuide]:
    if isinstance(value, bool | dict | str):
        return [NamedGuide(field, guides.of_schema(value))]
    raise _refusal(field, value, "a JSON schema")


def _json_object(field: str, value: object) -> list[NamedGuide]:
    if value is not True:
        raise _refusal(field, value, "true or false")
    return [NamedGuide(field, guides.ANY_OBJECT)]


def _regex(field: str, value: object) -> list[NamedGuide]:
    if isinstance(value, str):
        return [NamedGuide(field, guides.of_regex(value))]
    raise _refusal(field, value, "a regular expression")


def _choice(field: str, value: object) -> list[NamedGuide]:
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return [NamedGuide(field, guides.of_choices(value))]
    raise _refusal(field, value, "a list of at least one string")


def _grammar(field: str, value: object) -> list[NamedGuide]:
    if isinstance(value, str):
        return [NamedGuide(field, guides.of_grammar(value))]
    raise _refusal(field, value, "a grammar in Lark's form")


def _object(field: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _refusal(field, value, "an object")


def _refusal(field: str, value: object, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is {shown(value)}; it should be {wanted}.", field=field)


_Read = Callable[[str, object], list[NamedGuide]]

_KINDS: Mapping[str, _Read] = {
    "json": _json,
    "json_object": _json_object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}
# Not OpenAI's.
_OTHERS: Mapping[str, _Read] = {
    "guided_json": _json,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "structured_outputs": _structured_outputs,
}
