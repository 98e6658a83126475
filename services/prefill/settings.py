"""Settings of a prefill worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from baton.worker.settings import WorkerSettings


class PrefillSettings(WorkerSettings):
    """Computes prompts and pushes their KV blocks to decode workers."""

    model_config = SettingsConfigDict(env_prefix="BATON_PREFILL_")

    max_queued: Annotated[int, Field(ge=1)] = 1024
    """Most sessions at a time, of all decode workers; those refused are computed there."""
