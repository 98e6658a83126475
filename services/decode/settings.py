"""Settings of a decode worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from baton.worker.settings import WorkerSettings


class DecodeSettings(WorkerSettings):
    """Owns requests from acceptance to the last token."""

    model_config = SettingsConfigDict(env_prefix="BATON_DECODE_")

    max_queued: Annotated[int, Field(ge=1)] = 1024
    """Most sequences taken at a time, waiting ones included; more are refused for now."""
    handoff_stall_seconds: Annotated[float, Field(gt=0)] = 10.0
    """A hand-off without news for so long is given up and computed here."""
    verify_transfers: bool = False
    """Compare a checksum of every block that comes through shared memory."""
