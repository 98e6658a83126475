"""Ports on this machine."""

from __future__ import annotations

import random
import socket

# Below the range from which systems take the ports of outgoing connections, so that none of those
# takes a port between our choice and the child's bind.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 200


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class PortPicker:
    """Hands out free ports, each once."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._taken: set[int] = set()

    def pick(self) -> int:
        """A free port. Raises OSError when none is found."""
        for _ in range(_ATTEMPTS):
            # Seeded by the system: several test runs on one machine must not walk the same path.
            port = random.SystemRandom().choice(_RANGE)
            if port not in self._taken and is_free(port, self._host):
                self._taken.add(port)
                return port
        raise OSError(
            f"no free port in {_RANGE.start}-{_RANGE.stop - 1} on {self._host} "
            f"after {_ATTEMPTS} attempts"
        )
