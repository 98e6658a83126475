"""Who a worker is."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from baton.request import Role


@dataclass(frozen=True, slots=True)
class Identity:
    """Name, address and the epoch that tells this run from the last one."""

    worker_id: str
    role: Role
    address: str
    model: str
    epoch: str = field(default_factory=lambda: secrets.token_hex(8))
