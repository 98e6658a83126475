"""Who holds which retry key: a second request with a live one takes over, or is refused."""

from __future__ import annotations

from baton.errors import AlreadyRunning, Superseded
from services.gateway.requests import Request
from services.gateway.types import GenerateCommand


class _Claim:
    """One request's hold on its key, from admission to its end."""

    __slots__ = ("command", "request")

    def __init__(self, command: GenerateCommand) -> None:
        self.command = command
        self.request: Request | None = None


class Claims:
    """All keys of requests in flight. Requests without a key hold none."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], _Claim] = {}

    def is_held(self, tenant: str, retry_key: str) -> bool:
        """Whether a request with this key is in flight."""
        return bool(retry_key) and (tenant, retry_key) in self._held

    def take(self, command: GenerateCommand) -> None:
        """Takes the key, from a request with the same content if need be.

        Raises `AlreadyRunning` when another model or prompt runs under it.
        """
        if not command.retry_key:
            return
        key = _key(command)
        holder = self._held.get(key)
        if holder is not None:
            if not _is_same(holder.command, command):
                raise AlreadyRunning(
                    f"request_id {command.retry_key!r} belongs to a request that still runs with "
                    "another model or prompt; only the same request may be sent again.",
                    field="request_id",
                )
            if holder.request is not None:
                holder.request.fail(_superseded(holder.command))
        self._held[key] = _Claim(command)

    def hold(self, request: Request) -> None:
        """The request is there. Raises `Superseded` when another one took its key meanwhile."""
        if not request.command.retry_key:
            return
        claim = self._held.get(_key(request.command))
        if claim is None or claim.command is not request.command:
            raise _superseded(request.command)
        claim.request = request

    def release(self, command: GenerateCommand) -> None:
        """The request has ended: frees its key unless another one has taken it."""
        if not command.retry_key:
            return
        claim = self._held.get(_key(command))
        if claim is not None and claim.command is command:
            del self._held[_key(command)]


def _key(command: GenerateCommand) -> tuple[str, str]:
    return command.tenant, command.retry_key


def _superseded(command: GenerateCommand) -> Superseded:
    return Superseded(f"a retry of request {command.request_id!r} took over from this call")


def _is_same(one: GenerateCommand, other: GenerateCommand) -> bool:
    # Bytes against bytes: what is compared is the whole prompt, which a digest would stand for.
    return one.model == other.model and one.token_ids.packed == other.token_ids.packed
