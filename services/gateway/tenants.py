"""Who tenants are: their weights, limits and targets, and the keys that name them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baton.errors import InvalidRequest
from services.gateway.types import MAX_PRIORITY


class TenantEntry(BaseModel):
    """One tenant in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Share of what is there when there isn't enough, relative to the others'."""
    max_priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = MAX_PRIORITY
    """A higher priority is lowered to this."""
    target_ttft_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 0
    """For requests that name none; 0: the gateway's."""
    key_sha256: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of its API keys, hexadecimal. A tenant that has some is known by them alone."""


class TenantsFile(BaseModel):
    """The whole file, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: TenantEntry = TenantEntry()
    """Tenants that the file doesn't name, and requests without one."""
    tenants: dict[str, TenantEntry] = {}


class Tenants:
    """Looks tenants up. Those nobody named are alike, each with a share of its own."""

    def __init__(self, file: TenantsFile | None = None) -> None:
        self._file = file or TenantsFile()
        self._by_key = {
            digest: name
            for name, entry in self._file.tenants.items()
            for digest in entry.key_sha256
        }
        entries = (self._file.default, *self._file.tenants.values())
        self.takes_all_at_their_word = not self._by_key and all(
            entry.max_priority >= MAX_PRIORITY for entry in entries
        )
        """Whether every request has the tenant and the priority that it says."""

    @classmethod
    def read(cls, path: Path | None, weights: Mapping[str, float]) -> Tenants:
        """Those of a file, with weights given beside it. Raises ValueError with a sentence."""
        file = TenantsFile()
        if path is not None:
            try:
                file = TenantsFile.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise ValueError(f"the tenants of {path} cannot be read: {error}") from error
        tenants = dict(file.tenants)
        for name, weight in weights.items():
            entry = tenants.get(name, file.default)
            tenants[name] = entry.model_copy(update={"weight": weight})
        return cls(TenantsFile(default=file.default, tenants=tenants))

    @property
    def names(self) -> frozenset[str]:
        """Those that the file names."""
        return frozenset(self._file.tenants)

    def weight(self, tenant: str) -> float:
        """Its share."""
        return self._entry(tenant).weight

    def priority(self, tenant: str, priority: int) -> int:
        """What it gets when it asks for this one."""
        return min(priority, self._entry(tenant).max_priority)

    def target_ttft_s(self, tenant: str) -> float:
        """Seconds within which its requests want their first tokens; 0: it doesn't say."""
        return self._entry(tenant).target_ttft_ms / 1000

    def named(self, tenant: str, api_key: str, field: str = "tenant") -> str:
        """The tenant of a request that says it is this one's and carries this key.

        A key that the file knows names the tenant. Raises `InvalidRequest` where the two differ,
        and for a tenant that has keys without one of them.
        """
        if not self._by_key:
            return tenant
        digest = hashlib.sha256(api_key.encode()).hexdigest() if api_key else ""
        owner = next(
            (name for known, name in self._by_key.items() if hmac.compare_digest(known, digest)), ""
        )
        if owner and tenant in ("", owner):
            return owner
        if owner or (tenant and self._entry(tenant).key_sha256):
            raise InvalidRequest(
                f"{field} is {tenant!r}; the request's key is not its.", field=field
            )
        return tenant

    def _entry(self, tenant: str) -> TenantEntry:
        return self._file.tenants.get(tenant, self._file.default)
