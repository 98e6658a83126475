"""Who holds which retry key: a second request with a live one takes over, or is refused."""

from __future__ import annotations

from baton.errors import AlreadyRunning, BatonError, Superseded
from services.gateway.requests import Request
from services.gateway.types import GenerateCommand


class Claim:
    """One request's hold on its key, from admission to its end."""

    def __init__(self, command: GenerateCommand, claims: Claims | None) -> None:
        self.command = command
        self._claims = claims
        self._request: Request | None = None
        self._error: BatonError | None = None

    def hold(self, request: Request) -> None:
        """The request is there. Raises `Superseded` when it comes too late."""
        self._request = request
        if self._error is not None:
            raise self._error

    def yield_to_retry(self) -> None:
        """Ends the request, now or as soon as it is there."""
        request_id = self.command.request_id
        self._error = Superseded(f"a retry of request {request_id!r} took over from this call")
        if self._request is not None:
            self._request.fail(self._error)

    def release(self) -> None:
        """The request has ended; safe to call when another one took over."""
        if self._claims is not None:
            self._claims.release(self)


class Claims:
    """All keys of requests in flight."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Claim] = {}

    def is_taken(self, command: GenerateCommand) -> bool:
        """Whether a request with this key is in flight."""
        return self.is_held(command.tenant, command.retry_key)

    def is_held(self, tenant: str, retry_key: str) -> bool:
        """The same, before there is a command."""
        return bool(retry_key) and (tenant, retry_key) in self._held

    def take(self, command: GenerateCommand) -> Claim:
        """Takes the key, from a request with the same content if need be.

        Raises `AlreadyRunning` when another model or prompt runs under it.
        """
        if not command.retry_key:
            return Claim(command, None)
        key = _key(command)
        holder = self._held.get(key)
        if holder is not None:
            if not _is_same(holder.command, command):
                raise AlreadyRunning(
                    f"request_id {command.retry_key!r} belongs to a request that still runs with "
                    "another model or prompt; only the same request may be sent again.",
                    field="request_id",
                )
            holder.yield_to_retry()
        claim = self._held[key] = Claim(command, self)
        return claim

    def release(self, claim: Claim) -> None:
        """Frees the key unless another claim has taken it."""
        key = _key(claim.command)
        if self._held.get(key) is claim:
            del self._held[key]


def _key(command: GenerateCommand) -> tuple[str, str]:
    return command.tenant, command.retry_key


def _is_same(one: GenerateCommand, other: GenerateCommand) -> bool:
    # Bytes against bytes: what is compared is the whole prompt, which a digest would stand for.
    return one.model == other.model and one.token_ids.packed == other.token_ids.packed
