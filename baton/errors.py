"""The table of errors: exception, gRPC status, HTTP status, reason, and whether a client may retry.

BatonError
  InvalidRequest        a field of the request cannot be met
    UnknownModel        no live worker serves the model
    UnknownRequest      nothing is known of the request asked about
  AlreadyRunning        another request has this id or handle and still runs
  Superseded            a retry with the same request id took over
  Overloaded            no room now; comes with a retry delay
  NoWorker              no live worker can take the request
  WorkerLost            the worker or its stream went away
  DeadlineExceeded      the request's time is up
  Cancelled             the client left or asked to end
  LayoutMismatch        two processes disagree about blocks
  TransferFailed        blocks did not arrive intact
  ModelError            a model folder cannot be served
  EngineFailed          a defect of ours
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """How an error looks from outside."""

    grpc_code: int
    http_code: int
    reason: str
    may_retry: bool


class BatonError(Exception):
    """Root of all errors that Baton raises on purpose."""

    status = Status(13, 500, "INTERNAL", False)

    def __init__(
        self, message: str, *, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequest(BatonError):
    """A field of the request cannot be met; names the field, the value and the limit."""

    status = Status(3, 400, "INVALID_REQUEST", False)


class UnknownModel(InvalidRequest):
    """No live worker serves the model asked for."""

    status = Status(5, 404, "UNKNOWN_MODEL", False)


class UnknownRequest(InvalidRequest):
    """This process knows nothing, or nothing any more, of the request asked about."""

    status = Status(5, 404, "UNKNOWN_REQUEST", False)


class AlreadyRunning(BatonError):
    """Another request has this id, or this handle on its stream, and still runs."""

    status = Status(6, 409, "ALREADY_RUNNING", False)


class Superseded(BatonError):
    """A retry with the same request id took over; it has the answer."""

    status = Status(10, 409, "SUPERSEDED", False)


class Overloaded(BatonError):
    """There is no room now; `retry_after_s` says when to come back."""

    status = Status(8, 429, "OVERLOADED", True)


class NoWorker(BatonError):
    """No live worker can take the request."""

    status = Status(14, 503, "NO_WORKER", True)


class WorkerLost(BatonError):
    """A worker or its stream went away."""

    status = Status(14, 503, "WORKER_LOST", True)


class DeadlineExceeded(BatonError):
    """The request's time is up."""

    status = Status(4, 504, "DEADLINE_EXCEEDED", False)


class Cancelled(BatonError):
    """The client left or asked to end."""

    status = Status(1, 499, "CANCELLED", False)


class LayoutMismatch(BatonError):
    """Two processes disagree about how blocks lie or how their keys are made."""

    status = Status(9, 500, "LAYOUT_MISMATCH", False)


class TransferFailed(BatonError):
    """Blocks did not arrive, or arrived with a wrong checksum."""

    status = Status(15, 500, "TRANSFER_FAILED", True)


class ModelError(BatonError):
    """A model folder cannot be served; names what was found and what is supported."""

    status = Status(9, 500, "MODEL_ERROR", False)


class EngineFailed(BatonError):
    """A defect of ours."""

    status = Status(13, 500, "INTERNAL", False)


def _tree(root: type[BatonError]) -> list[type[BatonError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


def from_reason(reason: str, message: str, field: str = "") -> BatonError:
    """The exception behind a reason that came over the wire; `EngineFailed` for an unknown one."""
    for kind in _tree(BatonError)[1:]:
        if kind.status.reason == reason and reason != "INTERNAL":
            return kind(message, field=field)
    return EngineFailed(message, field=field)
