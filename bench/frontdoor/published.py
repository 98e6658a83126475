"""Figures of a Rust front end, for runs without a peer: from another machine, so no ratios."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from bench.frontdoor.measure import Measured
from bench.report import Cell, Table
from bench.stats import milliseconds

_TTFT_P50, _TTFT_P99 = "TTFT p50 ms", "TTFT p99 ms"
_REQUESTS, _TOKENS, _CPU = "req/s", "tokens/s", "gateway CPU s per 1,000 requests"
_FIGURES: dict[str, dict[str, str]] = {
    "agg2/1/128/1/quick": {_TTFT_P50: "1.9", _TTFT_P99: "2.7"},
    "agg2/64/128/1/quick": {_REQUESTS: "1,055", _TTFT_P50: "48", _TTFT_P99: "88", _CPU: "0.94"},
    "agg2/64/128/64/pooled": {_TOKENS: "29,200"},
    "agg2/64/128/64/quick": {_TOKENS: "33,200", _CPU: "1.7"},
    "agg2/64/2048/1/quick": {_REQUESTS: "1,014"},
    "agg2/64/16384/1/quick": {_REQUESTS: "512", _CPU: "1.7"},
    "disagg/64/128/1/quick": {_REQUESTS: "793 to 832"},
}


def published_table(measured: Iterable[Measured]) -> Table:
    """Ours beside theirs, for the cells that were published."""
    rows: list[tuple[Cell, ...]] = []
    for found in measured:
        ours: dict[str, float | None] = {
            _TTFT_P50: milliseconds(found.ttfts_s, 50),
            _TTFT_P99: milliseconds(found.ttfts_s, 99),
            _REQUESTS: median(found.requests_per_s),
            _TOKENS: found.tokens_per_s,
            _CPU: found.cpu_per_1000("gateway"),
        }
        for figure, theirs in _FIGURES.get(found.cell.name, {}).items():
            rows.append((found.cell.name, figure, ours[figure], theirs))
    return Table(
        "No peer in this run: beside figures of Dynamo 1.6.1 from ANOTHER machine",
        ("cell", "figure", "Baton, here", "Dynamo, on another machine"),
        tuple(rows),
        (
            "Dynamo 1.6.1, two mock workers without engine time, KV router, fast tokenizer; also "
            "2 cores with client, front end and workers on them: a class of machine, not this one",
            "no ratios are drawn: --peer-dynamo measures both in one run",
        ),
    )
