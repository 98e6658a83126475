"""`baton up`: everything on one machine, in the foreground."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from baton.cli.running import prepare, run_until_signal, running
from baton.cli.topology import ClusterOptions, Topology


def run_up(options: ClusterOptions) -> int:
    """Serves until Ctrl-C or SIGTERM. Returns the exit code."""
    console = Console(stderr=options.log_format == "json")
    topology = prepare(options)
    if topology.remark:
        console.print(f"note: {topology.remark}", style="yellow")

    async def serve() -> int:
        async with running(options, topology, console, show_lines=True):
            console.print(endpoints(topology))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                # Being told to stop is how this command ends well.
                console.print("stopping: running requests may finish; Ctrl-C again ends at once")
        console.print("stopped")
        return 0

    return run_until_signal(serve)


def endpoints(topology: Topology) -> Table:
    """Where to go, and what to type there."""
    table = Table.grid(padding=(0, 2))
    # Several share these addresses.
    gateway = topology.of_kind("gateway")[0]
    table.add_row("OpenAI HTTP", f"http://{gateway.http_address}/v1")
    table.add_row("Baton gRPC", gateway.address)
    table.add_row("KServe v2 gRPC", gateway.address)
    table.add_row("Redis", topology.redis_url)
    for spec in topology.processes:
        if spec.metrics_address:
            table.add_row(f"metrics {spec.name}", f"http://{spec.metrics_address}/metrics")
    table.add_row("try", f'baton generate "What is a process?" --address {gateway.address}')
    table.add_row("", f"baton chat --address {gateway.address}")
    return table
