"""The kvstore's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import ByteSize, Field
from pydantic import model_validator as validates_model
from pydantic_settings import SettingsConfigDict

from baton.rpc.settings import Address, ServiceSettings, Words


class Settings(ServiceSettings):
    """Keeps blocks in memory and on disk, outside devices, for all workers of a model."""

    model_config = SettingsConfigDict(env_prefix="BATON_KVSTORE_")

    listen: Address = "127.0.0.1:8503"
    """Address to serve gRPC on, host:port; port 0 picks a free one."""
    capacity_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default="1GiB", validate_default=True
    )
    """Memory for blocks, such as 512MiB or 64GiB; uploads in flight count."""
    share_memory: bool = True
    """Keep blocks in shared memory, so that workers on this host copy them without a stream."""
    admission: bool = True
    """Refuse blocks that are asked for less often than those they would replace."""
    tenant_weights: Words = ()
    """Weights of tenants for their shares of memory and disk, such as big=4,small=1; 1: others."""
    disk: Path | None = None
    """Folder for blocks that leave memory, of this kvstore alone; none: they are gone."""
    disk_bytes: Annotated[ByteSize, Field(ge=4 << 20)] = Field(
        default="8GiB", validate_default=True
    )
    """Most bytes in --disk."""
    disk_uses: Annotated[int, Field(ge=0, le=15)] = 2
    """A full disk takes blocks asked for so many times lately, no others: they would wear it."""

    @property
    def weights(self) -> dict[str, float]:
        """Weights by tenant."""
        pairs = (word.rpartition("=") for word in self.tenant_weights)
        return {name: float(weight) for name, _, weight in pairs}

    @validates_model(mode="after")
    def _has_right_weights(self) -> Self:
        try:
            if any(not name or not 0 < weight < 1e9 for name, weight in self.weights.items()):
                raise ValueError
        except ValueError:
            words = ",".join(self.tenant_weights)
            raise ValueError(f"--tenant-weights {words} must read NAME=NUMBER,…") from None
        return self
