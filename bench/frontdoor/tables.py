"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from bench.frontdoor.cells import NUM_CLIENTS
from bench.frontdoor.measure import GroupResult, Measured
from bench.frontdoor.messages import Door
from bench.frontdoor.published import published_table
from bench.report import Cell, Table
from bench.stats import milliseconds, percentile, ratio

KINDS = ("gateway", "decode", "prefill", "redis", "kvstore", "client")
BASE = "Baton"
DOORS = {
    Door.POOLED: "SSE, pooled",
    Door.QUICK: "SSE, pooled, quick",
    Door.FRESH: "SSE, fresh",
    Door.GRPC: "Baton gRPC",
    Door.SESSION: "Baton Session",
}
_READING = (
    "rates and CPU are medians of the repetitions, percentiles are of all their requests",
    "CPU from /proc, children included, in steps of 10 ms; clients, gateway and workers share the "
    "same cores; client %: of one core, in its busiest repetition",
    "quick: a client that acknowledges at once (TCP_QUICKACK); pooled: one that does not; fresh: a "
    "connection per request",
)


def tables(results: Sequence[GroupResult]) -> list[Table]:
    """All that there is something to say in."""
    has_peer = any(found.target != BASE for _, found in _all(results))
    made = [
        _lone(results),
        _crowd(results),
        _streaming(results),
        _ratios(results) if has_peer else published_table(found for _, found in _all(results)),
        _processes(results),
    ]
    return [table for table in made if table.rows]


def _all(results: Iterable[GroupResult]) -> list[tuple[GroupResult, Measured]]:
    return [(result, found) for result in results for found in result.measured]


def _lone(results: Sequence[GroupResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for result, found in _all(results):
        cell = found.cell
        if cell.num_clients != 1:
            continue
        p50 = percentile(found.ttfts_s, 50) or 0.0
        stream = result.stream_ttfts_s.get(cell.shape) if found.target == BASE else None
        stream_s = percentile(stream, 50) if stream else None
        rows.append(
            (
                result.group,
                str(cell.shape),
                DOORS[cell.door],
                found.target,
                len(found.ttfts_s),
                1e3 * p50,
                milliseconds(found.ttfts_s, 99),
                None if stream_s is None else 1e3 * (p50 - stream_s),
                None if stream_s is None else 1e3 * stream_s,
                *(found.cpu_per_1000(kind) for kind in KINDS),
                round(100 * found.client_share),
            )
        )
    return Table(
        "One client: all of the time to the first token is added, since the engine takes none",
        (
            "system",
            "in/out",
            "door",
            "target",
            "n",
            "TTFT p50 ms",
            "TTFT p99 ms",
            "gateway ms",
            "stream ms",
            *(f"{kind} CPU ms" for kind in KINDS),
            "client %",
        ),
        tuple(rows),
        (
            "stream: TTFT p50 on a decode worker's stream without a gateway; gateway: the rest",
            "CPU milliseconds per request; random prompts, none asked twice; shared: the first "
            "1,920 tokens are the same in all",
            *_READING,
        ),
    )


def _crowd(results: Sequence[GroupResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for result, found in _all(results):
        if found.cell.num_clients == 1:
            continue
        rates = found.requests_per_s
        rows.append(
            (
                result.group,
                str(found.cell.shape),
                DOORS[found.cell.door],
                found.target,
                len(found.ttfts_s),
                median(rates),
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                milliseconds(found.ttfts_s, 50),
                milliseconds(found.ttfts_s, 99),
                found.tokens_per_s,
                found.tokens_per_event,
                *(found.cpu_per_1000(kind) for kind in KINDS),
                round(100 * found.client_share),
            )
        )
    return Table(
        f"{NUM_CLIENTS} clients, closed loop",
        (
            "system",
            "in/out",
            "door",
            "target",
            "n",
            "req/s",
            "by repetition",
            "TTFT p50 ms",
            "TTFT p99 ms",
            "tokens/s",
            "tokens/event",
            *(f"{kind} CPU s" for kind in KINDS),
            "client %",
        ),
        tuple(rows),
        (
            "agg1, agg2: one, two decode workers; disagg: one prefill and one decode worker, every "
            "prompt handed off",
            "CPU seconds per 1,000 requests",
            *_READING,
        ),
    )


def _streaming(results: Sequence[GroupResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    everything = _all(results)
    for result, long in everything:
        shape = long.cell.shape
        if shape.output_len == 1 or long.cell.num_clients == 1:
            continue
        for other, short in everything:
            is_base = short.cell.shape.output_len == 1 and not short.cell.shape.shared_len
            same = (other.group, short.target, short.cell.door, short.cell.num_clients)
            wanted = (result.group, long.target, long.cell.door, long.cell.num_clients)
            if is_base and same == wanted and short.cell.shape.prompt_len == shape.prompt_len:
                micros = [
                    _micros_per_token(long, short, kind) for kind in ("gateway", "decode", "client")
                ]
                rows.append(
                    (result.group, shape.prompt_len, DOORS[long.cell.door], long.target, *micros)
                )
    return Table(
        "CPU per streamed token: 64 output tokens against 1",
        ("system", "prompt", "door", "target", "gateway µs", "decode µs", "client µs"),
        tuple(rows),
    )


def _micros_per_token(long: Measured, short: Measured, kind: str) -> float | None:
    more, less = long.cpu_per_1000(kind), short.cpu_per_1000(kind)
    if more is None or less is None:
        return None
    # Seconds per 1,000 requests are milliseconds per request.
    return 1e3 * (more - less) / (long.cell.shape.output_len - short.cell.shape.output_len)


def _ratios(results: Sequence[GroupResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    everything = _all(results)
    for _, ours in everything:
        theirs = next(
            (found for _, found in everything if found.cell == ours.cell and found.target != BASE),
            None,
        )
        if ours.target != BASE or theirs is None:
            continue
        rows.append(
            (
                ours.cell.name,
                theirs.target,
                ratio(percentile(ours.ttfts_s, 50), percentile(theirs.ttfts_s, 50)),
                ratio(percentile(ours.ttfts_s, 99), percentile(theirs.ttfts_s, 99)),
                ratio(median(ours.requests_per_s), median(theirs.requests_per_s)),
                ratio(ours.cpu_per_1000("gateway"), theirs.cpu_per_1000("gateway")),
                ratio(_cpu_of_all(ours), _cpu_of_all(theirs)),
            )
        )
    return Table(
        "Baton over the peer, in this run (below 1: less of it; req/s: above 1 is faster)",
        ("cell", "peer", "TTFT p50", "TTFT p99", "req/s", "gateway CPU", "CPU of all servers"),
        tuple(rows),
    )


def _cpu_of_all(found: Measured) -> float:
    return sum(found.cpu_per_1000(kind) or 0.0 for kind in KINDS if kind != "client")


def _processes(results: Sequence[GroupResult]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        for target, idle in result.idle_mib.items():
            end = result.end_mib[target]
            sizes = [
                f"{idle[kind]:.0f} / {end[kind]:.0f}" if kind in idle else None
                for kind in KINDS[:-1]
            ]
            rows.append((result.group, target, result.first_token_s[target], *sizes))
    return Table(
        "Start and memory",
        (
            "system",
            "target",
            "first token s",
            *(f"{kind} MiB idle / end" for kind in KINDS[:-1]),
        ),
        tuple(rows),
        ("first token: from the order to start all processes, one system at a time",),
    )
