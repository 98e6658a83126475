"""All that is textual about a model: tokeniser, chat template, detokeniser, parsers."""

from __future__ import annotations

from baton.text.chat import ChatTemplate
from baton.text.folder import GenerationDefaults
from baton.text.model_text import Detokenizer, ModelText, load_text
from baton.text.stop import StopStrings

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "GenerationDefaults",
    "ModelText",
    "StopStrings",
    "load_text",
]
