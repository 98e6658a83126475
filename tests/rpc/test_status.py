"""Errors of the table cross the wire and come back as what they were."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from example_service import Example, Settings
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RichStatus

from baton import errors
from baton.rpc.channels import open_channel
from baton.rpc.serve import Process
from baton.rpc.status import RICH_STATUS, from_rpc_error
from baton.v1 import kvstore_pb2, kvstore_pb2_grpc


@pytest.fixture
async def channel() -> AsyncIterator[Any]:
    process = Process("example", Settings())
    Example().register(process)
    await process.start()
    async with open_channel(process.address) as channel:
        yield channel
    await process.stop()


@pytest.fixture
def stub(channel: Any) -> Any:
    return kvstore_pb2_grpc.KvStoreServiceStub(channel)


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_error_of_the_table_arrives_with_status_reason_and_field(stub: Any) -> None:
    failure = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"invalid")))

    error = from_rpc_error(failure)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert type(error) is errors.InvalidRequest
    assert (error.message, error.field) == ("keys has 7 bytes; the limit is 0", "keys")


async def test_an_error_that_quotes_anything_fits_into_headers(stub: Any) -> None:
    failure = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"quoting")))

    error = from_rpc_error(failure)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == f"{'😀' * 512}..."
    assert error.field.startswith("gr??e?gr??e?")


async def test_a_retry_delay_arrives(stub: Any) -> None:
    failure = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"full")))

    error = from_rpc_error(failure)
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (type(error), error.retry_after_s) == (errors.Overloaded, 1.5)


async def test_a_retry_delay_is_told_as_clients_of_others_read_it(stub: Any) -> None:
    failure = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"full")))
    other = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"invalid")))

    status = RichStatus.FromString(dict(failure.trailing_metadata() or ())[RICH_STATUS])
    info = RetryInfo()
    assert (status.code, status.message) == (failure.code().value[0], failure.details())
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 1500
    assert RICH_STATUS not in dict(other.trailing_metadata() or ())


async def test_a_defect_is_logged_and_tells_the_client_nothing_more(
    stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failure = await failure_of(stub.FindMissing(kvstore_pb2.FindMissingRequest(keys=b"defect")))

    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(failure.details())
    assert type(from_rpc_error(failure)) is errors.EngineFailed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ZeroDivisionError" in str(caplog.records[0].exc_info)


async def test_an_error_behind_streamed_messages_arrives(stub: Any) -> None:
    call = stub.Get(kvstore_pb2.GetRequest())

    first = await call.read()
    failure = await failure_of(call.read())

    assert first.index == 1
    assert from_rpc_error(failure).field == "namespace"


async def test_an_error_in_a_client_stream_arrives(stub: Any) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield kvstore_pb2.PutRequest()

    assert from_rpc_error(await failure_of(stub.Put(pieces()))).field == "data"


async def test_the_transports_own_statuses_become_errors(stub: Any) -> None:
    late = await failure_of(stub.GetStats(kvstore_pb2.GetStatsRequest(), timeout=0.05))
    async with open_channel("127.0.0.1:1") as channel:
        nowhere = kvstore_pb2_grpc.KvStoreServiceStub(channel)
        gone = await failure_of(nowhere.GetStats(kvstore_pb2.GetStatsRequest(), timeout=5))

    assert type(from_rpc_error(late)) is errors.DeadlineExceeded
    assert type(from_rpc_error(gone)) is errors.WorkerLost


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x7fab"])
@pytest.mark.parametrize("name", ["FindMissing", "Get", "Put"])
async def test_bytes_that_are_no_message_are_the_clients_mistake(channel: Any, name, raw) -> None:
    path = f"/baton.v1.KvStoreService/{name}"
    kinds = {"Get": channel.unary_stream, "Put": channel.stream_unary}
    call = kinds.get(name, channel.unary_unary)(path)(iter([raw]) if name == "Put" else raw)

    failure = await failure_of(call.read() if name == "Get" else call)

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "is not one of this call's" in str(failure.details())


async def test_an_unknown_method_stays_unimplemented(stub: Any) -> None:
    process = Process("example", Settings())
    await process.start()

    async with open_channel(process.address) as channel:
        other = kvstore_pb2_grpc.KvStoreServiceStub(channel)
        failure = await failure_of(other.GetStats(kvstore_pb2.GetStatsRequest(), timeout=5))
    await process.stop()

    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
