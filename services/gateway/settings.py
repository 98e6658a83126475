"""The gateway's settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FilePath
from pydantic import model_validator as validates_model
from pydantic_settings import SettingsConfigDict

from baton.rpc.settings import Address, Addresses, OptionalAddress, ServiceSettings, Words
from services.gateway.tenants import Tenants


class Settings(ServiceSettings):
    """Serves clients: checks, tokenises, routes and streams."""

    model_config = SettingsConfigDict(env_prefix="BATON_GATEWAY_")

    listen: Address = "127.0.0.1:8500"
    """Address to serve gRPC on, host:port; port 0 picks a free one."""
    http_listen: OptionalAddress = "127.0.0.1:8000"
    """Address of the OpenAI HTTP door; empty: none."""
    share_port: bool = False
    """Listen on both addresses beside other gateways of this machine that do so too."""
    own_listen: OptionalAddress = ""
    """gRPC address of this gateway alone when it shares; empty: a free port of the same host."""
    model: Path | None = None
    """Folder with the model's tokenizer and chat template; none: as the workers' records say."""
    decode: Addresses = ()
    """Decode workers when there is no Redis, host:port, separated by commas."""
    prefill: Addresses = ()
    """Prefill workers when there is no Redis, host:port, separated by commas."""
    max_requests: Annotated[int, Field(ge=1)] = 512
    """Most requests in flight; one more is told to come back later."""
    admission: bool = True
    """Hold requests back while workers are busy, and refuse those that would be late."""
    target_ttft_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Refuse requests whose first token is predicted later, if they name no target; 0: never."""
    worker_sequences: Annotated[int, Field(ge=0)] = 0
    """Most sequences in flight per decode worker; 0: an engine step's, and an eighth."""
    tenants: FilePath | None = None
    """JSON file of tenants: weights, highest priorities, targets, digests of API keys."""
    tenant_weights: Words = ()
    """Shares of tenants while workers are busy, as name=weight, separated by commas; others: 1."""
    max_session_requests: Annotated[int, Field(ge=1)] = 1024
    """Most requests in flight on one Session stream; one more is told to come back later."""
    max_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest time a request may take, and what it gets when it asks for none."""
    worker_wait_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for a live decode worker."""
    routing: Literal["predicted", "round-robin", "least-load", "longest-prefix"] = "predicted"
    """How workers are chosen: by predicted milliseconds, or by a rule that knows no times."""
    remote_prefill: bool = True
    """Have prefill workers compute prompts where that is predicted to cost less."""
    remote_prefill_tokens: Annotated[int, Field(ge=0)] | None = None
    """A fixed rule in place of predictions: prefill workers compute more uncached prompt tokens
    than this, decode workers the others. With a --routing that predicts nothing: 64."""
    default_ttft_ms: Annotated[float, Field(gt=0)] = 1000.0
    """Time to the first token that requests are routed for when they name no target."""
    default_itl_ms: Annotated[float, Field(gt=0)] = 50.0
    """Time between tokens that requests are routed for when they name no target."""
    max_migrations: Annotated[int, Field(ge=0)] = 3
    """How often one sample may move to another decode worker."""

    tool_parser: Literal["auto", "hermes", "llama3", "none"] = "auto"
    """How the model writes tool calls; auto: as its chat template and tokens show."""
    reasoning_parser: Literal["auto", "think", "none"] = "auto"
    """How the model marks its reasoning; auto: as its chat template and tokens show."""
    sse_keepalive_seconds: Annotated[float, Field(ge=0)] = 15.0
    """Send a comment to a stream that is silent for so long, in seconds; 0: never."""
    http_receive_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Drop HTTP requests that have not arrived whole within so many seconds."""
    cors_origins: Words = ()
    """Origins whose web pages may use the HTTP door, separated by commas; *: any; empty: none."""

    @property
    def own_address(self) -> str:
        """Where this gateway listens alone: health is asked there."""
        if not self.share_port:
            return self.listen
        return self.own_listen or f"{self.listen.rpartition(':')[0]}:0"

    @validates_model(mode="after")
    def _shares_what_can_be_shared(self) -> Self:
        if not self.share_port:
            if self.own_listen:
                raise ValueError("--own-listen is for --share-port; without it use --listen")
            return self
        if sys.platform != "linux":
            raise ValueError("--share-port needs Linux, which spreads connections over processes")
        for flag, address in (("--listen", self.listen), ("--http-listen", self.http_listen)):
            if address.startswith("unix:") or address.endswith(":0"):
                raise ValueError(
                    f"{flag} is {address!r}: with --share-port it reads host:port, and others "
                    "must know the port, so it can't be 0"
                )
        return self

    def weights(self) -> dict[str, float]:
        """The weights given by name. Raises ValueError where one is none."""
        given = {}
        for word in self.tenant_weights:
            name, _, text = word.rpartition("=")
            try:
                weight = float(text)
            except ValueError:
                weight = 0.0
            if not name or not 0 < weight <= 1e6:
                raise ValueError(
                    f"--tenant-weights holds {word!r}; a weight reads name=number, above 0"
                )
            given[name] = weight
        return given

    def read_tenants(self) -> Tenants:
        """All that is known of tenants. Raises ValueError."""
        return Tenants.read(self.tenants, self.weights())

    @validates_model(mode="after")
    def _knows_tenants(self) -> Self:
        self.read_tenants()
        return self

    @validates_model(mode="after")
    def _knows_where_workers_are(self) -> Self:
        if not self.redis_url and not self.decode:
            raise ValueError("no decode worker can be found: give --redis-url or --decode")
        return self
