"""The door's OpenAPI description, put together from the models that check bodies."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.gateway.openai.bodies import ChatBody, CompletionBody
from services.gateway.openai.response_bodies import ResponsesBody
from services.gateway.openai.tokens import DetokenizeBody, TokenizeBody

_ERRORS = {
    "400": "A field cannot be met; the message names it, its value and the limit.",
    "404": "No live worker serves the model.",
    "409": "A request with this idempotency key is still running, or has taken over.",
    "413": "The body is too long.",
    "415": "The body is not said to be JSON.",
    "429": "There is no room now; retry-after says when to come back.",
    "500": "An internal error.",
    "503": "No live worker can take the request; retry-after says when to come back.",
    "504": "The request's time is up.",
}
_READING = ("404", "500", "503")
_JSON = "application/json"
_STREAM = "text/event-stream"

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_EVENT_SCHEMA = {
    "type": "object",
    "description": "One event of the stream; data is JSON, or [DONE].",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}


def openapi() -> dict[str, Any]:
    """The whole description."""
    bodies = (ChatBody, CompletionBody, ResponsesBody, TokenizeBody, DetokenizeBody)
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baton", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": _generating(ChatBody, "chat.completion")},
            "/v1/completions": {"post": _generating(CompletionBody, "text_completion")},
            "/v1/responses": {"post": _generating(ResponsesBody, "response")},
            "/tokenize": {"post": _asking(TokenizeBody, ("count", "max_model_len", "tokens"))},
            "/detokenize": {"post": _asking(DetokenizeBody, ("prompt",))},
            "/v1/models": {"get": _reading(_answer(("object", "data")))},
            "/v1/models/{model}": {
                "get": {
                    **_reading(_answer(("id", "object", "created", "owned_by"))),
                    "parameters": [
                        {
                            "name": "model",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1},
                        }
                    ],
                }
            },
            "/health": {"get": _health()},
        },
        "components": {
            "schemas": {**schemas["$defs"], "Error": _ERROR_SCHEMA},
            "responses": {code: _error(text) for code, text in _ERRORS.items()},
        },
    }


def _generating(body: type[BaseModel], kind: str) -> dict[str, Any]:
    whole = _answer(("id", "object"), {"object": {"const": kind}})
    whole["content"][_STREAM] = {"schema": _EVENT_SCHEMA}
    return _posting(body, whole)


def _asking(body: type[BaseModel], members: tuple[str, ...]) -> dict[str, Any]:
    return _posting(body, _answer(members))


def _posting(body: type[BaseModel], answer: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "requestBody": {"required": True, "content": {_JSON: {"schema": schema}}},
        "responses": {"200": answer, **_errors(tuple(_ERRORS))},
    }


def _reading(answer: dict[str, Any]) -> dict[str, Any]:
    return {"responses": {"200": answer, **_errors(_READING)}}


def _health() -> dict[str, Any]:
    status = _answer(("status",))
    return {"responses": {"200": status, "503": status}}


def _errors(codes: tuple[str, ...]) -> dict[str, Any]:
    return {code: {"$ref": f"#/components/responses/{code}"} for code in codes}


def _error(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {_JSON: {"schema": schema}}}


def _answer(members: tuple[str, ...], known: dict[str, Any] | None = None) -> dict[str, Any]:
    schema = {"type": "object", "required": list(members), "properties": known or {}}
    return {"description": "The answer.", "content": {_JSON: {"schema": schema}}}
