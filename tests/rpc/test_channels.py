"""Connections: TLS both ways, coming back after a restart, limits of size."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from example_service import Example, Settings
from grpc._cython import cygrpc

from baton.rpc.channels import (
    CHANNEL_OPTIONS,
    MAX_MESSAGE_BYTES,
    SERVER_OPTIONS,
    TlsFiles,
    open_channel,
)
from baton.rpc.serve import Process
from baton.v1 import kvstore_pb2, kvstore_pb2_grpc


async def started(settings: Settings) -> Process:
    process = Process("example", settings)
    Example().register(process)
    await process.start()
    return process


async def ask(channel: grpc.aio.Channel, timeout_s: float = 5.0, **options: Any) -> Any:
    stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
    return await stub.FindMissing(kvstore_pb2.FindMissingRequest(), timeout=timeout_s, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate for 127.0.0.1 that is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates of this test")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-keyout key.pem -out cert.pem -subj /CN=example "
        "-addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "cert.pem")


def with_tls(files: TlsFiles, ca: Path | None) -> Settings:
    return Settings(tls_cert=files.cert, tls_key=files.key, tls_ca=ca)


async def test_calls_pass_over_mutual_tls(files: TlsFiles) -> None:
    settings = with_tls(files, files.ca)
    process = await started(settings)

    async with open_channel(process.address, TlsFiles.of(settings)) as channel:
        answer = await ask(channel)
    await process.stop()

    assert answer.missing == [7]


@pytest.mark.parametrize("tls", [None, "no certificate"])
async def test_a_client_without_a_certificate_is_refused(files: TlsFiles, tls: str | None) -> None:
    process = await started(with_tls(files, files.ca))
    client = TlsFiles(ca=files.ca) if tls else None

    async with open_channel(process.address, client) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(channel, 3.0)
    await process.stop()

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_an_authority_a_server_takes_any_client(files: TlsFiles) -> None:
    process = await started(with_tls(files, None))

    async with open_channel(process.address, TlsFiles(ca=files.ca)) as channel:
        answer = await ask(channel)
    await process.stop()

    assert answer.missing == [7]


async def test_a_channel_finds_a_restarted_process_within_two_seconds() -> None:
    process = await started(Settings())
    settings = Settings(listen=process.address)

    async with open_channel(process.address) as channel:
        await ask(channel)
        await process.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(channel)
        await asyncio.sleep(0.5)  # attempts fail meanwhile, and back off
        again = await started(settings)
        began = time.monotonic()
        await ask(channel, 10.0, wait_for_ready=True)
        taken_s = time.monotonic() - began
        await again.stop()

    assert taken_s < 3.0


async def test_channels_share_a_connection_unless_one_is_asked_for() -> None:
    process = await started(Settings())
    address = process.address

    async with (
        open_channel(address) as first,
        open_channel(address) as second,
        open_channel(address, has_own_connection=True) as third,
    ):
        for channel in (first, second, third):
            await ask(channel)
        num_connections = _connections_to(int(address.rpartition(":")[2]))
    await process.stop()

    assert num_connections == 2


def _connections_to(port: int) -> int:
    tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    # Column 2 is the far end; state 01 is an established connection.
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_a_message_above_the_limit_is_refused() -> None:
    process = await started(Settings())

    async with open_channel(process.address) as channel:
        stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
        request = kvstore_pb2.FindMissingRequest(keys=bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.FindMissing(request, timeout=5)
    await process.stop()

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", sorted({name for name, _ in CHANNEL_OPTIONS + SERVER_OPTIONS}))
def test_every_option_is_one_that_grpc_knows(name: str) -> None:
    # gRPC ignores a misspelt option in silence. One such made servers cut idle connections off for
    # pinging too often, every half minute.
    library = Path(cygrpc.__file__).read_bytes()

    assert name.encode() + b"\0" in library
