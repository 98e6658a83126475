"""Fields that are known, not supported, and would change the answer if they were ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton.errors import InvalidRequest
from services.gateway.openai.errors import shown

# For each field the values that ask for nothing; every other value is refused.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "logits_processors": ([],),
    "modalities": (["text"],),
    "prompt_logprobs": (),
    "skip_special_tokens": (True,),
    "suffix": ("",),
    # Chat knows these itself.
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


def refuse_unsupported(extra: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` that names the first field we would have to ignore."""
    for name, neutral in _NEUTRAL.items():
        value = extra.get(name)
        if value is not None and value not in neutral:
            raise _refusal(name, value)


def _refusal(name: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"{name} is {shown(value)}, which is not supported.", field=name)
