"""A cluster that lives as long as a `with` block, and what Ctrl-C does to it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rich.console import Console

from baton.cli.display import Display
from baton.cli.errors import CommandError, ProcessFailed
from baton.cli.ports import is_free
from baton.cli.supervisor import Patience, Supervisor
from baton.cli.topology import ClusterOptions, Topology, plan
from baton.registry.embedded import RedisNotFound

# What a process may need beyond its grace for calls: stopping its loop, sending its traces.
_STOP_MARGIN_S = 10.0


def prepare(options: ClusterOptions) -> Topology:
    """The plan, after checks that give better words than a process that falls over."""
    if options.decode < 1 or options.gateways < 1:
        raise CommandError(
            f"{options.decode} decode workers and {options.gateways} gateways cannot serve; "
            "at least one of each is needed."
        )
    if options.gateways > 1 and sys.platform != "linux":
        raise CommandError(
            f"{options.gateways} gateways would share their ports, which only Linux spreads "
            "connections over; use --gateways 1."
        )
    if not (options.model / "config.json").is_file():
        raise CommandError(
            f"{options.model} holds no config.json; --model names a Hugging Face model folder."
        )
    try:
        topology = plan(options)
    except RedisNotFound as error:
        raise CommandError(f"{error}.") from error
    spec = topology.of_kind("gateway")[0]
    for flag, address in (("--port", spec.address), ("--http-port", spec.http_address)):
        host, _, port = address.rpartition(":")
        if not is_free(int(port), host):
            raise CommandError(
                f"port {port} on {host} is taken; choose another with {flag}, or 0 for any."
            )
    return topology


@asynccontextmanager
async def running(
    options: ClusterOptions, topology: Topology, console: Console, *, show_lines: bool
) -> AsyncIterator[Supervisor]:
    """Starts everything, and stops everything in the end, whatever that end is."""
    display = Display(
        console,
        [spec.name for spec in topology.processes],
        quiet=[spec.name for spec in topology.processes if spec.is_quiet or not show_lines],
        prefixed=options.log_format != "json",
    )
    patience = Patience(grace_s=options.grace_seconds + _STOP_MARGIN_S)
    supervisor = Supervisor(topology.stages, display, patience)
    _hurry_on_second_signal(supervisor)
    try:
        with display:
            await supervisor.start()
        yield supervisor
    except ProcessFailed as failure:
        display.show_failure(failure)
        raise
    finally:
        await supervisor.stop()


def run_until_signal(work: Callable[[], Awaitable[int]]) -> int:
    """Runs to the end, or to SIGINT or SIGTERM, which cancel the work. Returns the exit code."""

    async def live() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return 128 + signal.SIGINT

    return asyncio.run(live())


def _hurry_on_second_signal(supervisor: Supervisor) -> None:
    """The first signal cancels and so drains; the second kills."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    has_come = False

    def on_signal() -> None:
        nonlocal has_come
        if has_come:
            supervisor.kill()
        else:
            has_come = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
