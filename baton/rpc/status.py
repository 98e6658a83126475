"""Errors of the table as gRPC statuses; reason, field and retry delay are trailing metadata.

A retry delay is there twice: as a number, and as `google.rpc.RetryInfo`, which gRPC clients and
meshes of others read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RichStatus

from baton import errors
from baton.errors import BatonError
from baton.rpc import logs
from baton.rpc.handlers import Context, Handler, around

REASON = "baton-reason"
FIELD = "baton-field"
RETRY_AFTER_MS = "retry-after-ms"
RICH_STATUS = "grpc-status-details-bin"
MAX_RICH_BYTES = 512
"""Of a message that goes twice: clients want it in both places alike, in 8 KB of trailers."""
MAX_DETAILS_BYTES = 2048
"""Of a message. Receivers take 8 KB of trailers; each byte of other than ASCII becomes three."""
MAX_FIELD_LEN = 128

_log = logs.get_logger(__name__)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# For a status that no process of ours made: the transport's, a proxy's, grpc's own.
_PLAIN: dict[grpc.StatusCode, type[BatonError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.WorkerLost,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.DATA_LOSS: errors.TransferFailed,
}


async def abort(context: Context, error: BatonError) -> NoReturn:
    """Ends the call with the error's status, behind the trailing metadata set so far."""
    before: Any = context.trailing_metadata() or ()
    metadata = [*before, (REASON, error.status.reason)]
    if error.field:
        metadata.append((FIELD, _fit_for_header(error.field)))
    if error.retry_after_s is not None:
        metadata.append((RETRY_AFTER_MS, str(round(error.retry_after_s * 1000))))
        metadata += _rich_status(error, error.retry_after_s)
    code = _CODES[error.status.grpc_code]
    await context.abort(code, _shortened(error.message), tuple(metadata))


def _rich_status(error: BatonError, retry_after_s: float) -> list[tuple[str, bytes]]:
    """The status with its `RetryInfo`; nothing for a message that is too long to go twice."""
    if len(error.message.encode(errors="replace")) > MAX_RICH_BYTES:
        return []
    info, detail = RetryInfo(), AnyMessage()
    info.retry_delay.FromMilliseconds(round(retry_after_s * 1000))
    detail.Pack(info)
    status = RichStatus(code=error.status.grpc_code, message=error.message, details=[detail])
    return [(RICH_STATUS, status.SerializeToString())]


def _shortened(message: str) -> str:
    """Messages may quote what a client sent, however long it was."""
    encoded = message.encode(errors="replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return message
    return f"{encoded[:MAX_DETAILS_BYTES].decode(errors='ignore')}..."


def _fit_for_header(field: str) -> str:
    """Where a client chose the field's name, it may be anything; headers are printable ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in field[:MAX_FIELD_LEN])


def from_rpc_error(failure: grpc.aio.AioRpcError) -> BatonError:
    """The error that the other side raised, or the closest one to what the transport reports."""
    pairs: Any = failure.trailing_metadata() or ()
    metadata = {key: str(value) for key, value in pairs}
    message = failure.details() or failure.code().name
    error: BatonError
    if reason := metadata.get(REASON):
        error = errors.from_reason(reason, message, metadata.get(FIELD, ""))
    else:
        error = _PLAIN.get(failure.code(), errors.EngineFailed)(message)
    if (delay := metadata.get(RETRY_AFTER_MS, "")).isdecimal():
        error.retry_after_s = int(delay) / 1000
    return error


class StatusInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # in its stub only
    """Turns what a handler raises into a status; what is not in the table is logged: INTERNAL."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        return around(handler, lambda context: _converted(method, context))


@asynccontextmanager
async def _converted(method: str, context: Context) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except BatonError as error:
        await abort(context, error)
    except Exception as defect:
        _log.exception("call failed", method=method)
        await abort(context, errors.EngineFailed(f"{type(defect).__name__} in {method}"))
