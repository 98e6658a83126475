"""Asks a process whether it is ready."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.cli.topology import Probe, ProcessSpec
from baton.rpc.channels import CHANNEL_OPTIONS

_PAUSE_S = 0.02
_ANSWER_LIMIT_S = 2.0


async def wait_ready(spec: ProcessSpec) -> None:
    """Returns once the process says that it serves. Waits for ever: callers set the limit."""
    address = spec.probe_address
    # A refused connection costs nothing, while a gRPC channel backs off: knock before opening one.
    while not await _accepts(address):
        await asyncio.sleep(_PAUSE_S)
    if spec.probe is Probe.REDIS:
        while not await _answers_ping(address):
            await asyncio.sleep(_PAUSE_S)
        return
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while not await _serves(health):
            await asyncio.sleep(_PAUSE_S)


async def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _answers_ping(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            writer.write(b"PING\r\n")
            return (await asyncio.wait_for(reader.readline(), _ANSWER_LIMIT_S)).startswith(b"+PONG")
        finally:
            writer.close()
    except (OSError, TimeoutError):
        return False


async def _serves(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_LIMIT_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
