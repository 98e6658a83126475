"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field
from pydantic import model_validator as validates_model
from pydantic_settings import SettingsConfigDict

from baton.rpc.settings import Address, Addresses, OptionalAddress, ServiceSettings, Words


class Settings(ServiceSettings):
    """Serves clients: checks, tokenises, routes and streams."""

    model_config = SettingsConfigDict(env_prefix="BATON_GATEWAY_")

    listen: Address = "127.0.0.1:8500"
    """Address to serve gRPC on, host:port; port 0 picks a free one."""
    http_listen: OptionalAddress = "127.0.0.1:8000"
    """Address of the OpenAI HTTP door; empty: none."""
    model: Path | None = None
    """Folder with the model's tokenizer and chat template; none: as the workers' records say."""
    decode: Addresses = ()
    """Decode workers when there is no Redis, host:port, separated by commas."""
    prefill: Addresses = ()
    """Prefill workers when there is no Redis, host:port, separated by commas."""
    max_requests: Annotated[int, Field(ge=1)] = 512
    """Most requests in flight; one more is told to come back later."""
    max_session_requests: Annotated[int, Field(ge=1)] = 1024
    """Most requests in flight on one Session stream; one more is told to come back later."""
    max_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest time a request may take, and what it gets when it asks for none."""
    worker_wait_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for a live decode worker."""
    remote_prefill: bool = True
    """Have prefill workers compute long prompts."""
    remote_prefill_tokens: Annotated[int, Field(ge=0)] = 64
    """More uncached prompt tokens than this are computed by a prefill worker."""
    max_migrations: Annotated[int, Field(ge=0)] = 3
    """How often one sample may move to another decode worker."""

    tool_parser: Literal["auto", "hermes", "llama3", "none"] = "auto"
    """How the model writes tool calls; auto: as its chat template and tokens show."""
    reasoning_parser: Literal["auto", "think", "none"] = "auto"
    """How the model marks its reasoning; auto: as its chat template and tokens show."""
    sse_keepalive_seconds: Annotated[float, Field(ge=0)] = 15.0
    """Send a comment to a stream that is silent for so long, in seconds; 0: never."""
    cors_origins: Words = ()
    """Origins whose web pages may use the HTTP door, separated by commas; *: any; empty: none."""

    @validates_model(mode="after")
    def _knows_where_workers_are(self) -> Self:
        if not self.redis_url and not self.decode:
            raise ValueError("no decode worker can be found: give --redis-url or --decode")
        return self
