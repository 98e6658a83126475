"""The kvstore's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from baton.rpc.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Keeps blocks in memory, outside devices, for all workers of a model."""

    model_config = SettingsConfigDict(env_prefix="BATON_KVSTORE_")

    listen: Address = "127.0.0.1:8503"
    """Address to serve gRPC on, host:port; port 0 picks a free one."""
    capacity_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default="1GiB", validate_default=True
    )
    """Memory for blocks, such as 512MiB or 64GiB; uploads in flight count."""
