"""Settings of a prefill worker."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from baton.worker.settings import WorkerSettings


class PrefillSettings(WorkerSettings):
    """Computes prompts and pushes their KV blocks to decode workers."""

    model_config = SettingsConfigDict(env_prefix="BATON_PREFILL_")
