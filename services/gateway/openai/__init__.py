"""The OpenAI HTTP door: models, completions and chat completions, health, metrics."""

from __future__ import annotations

from services.gateway.openai.app import app
from services.gateway.openai.server import HttpServer

__all__ = ["HttpServer", "app"]
