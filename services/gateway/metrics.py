"""The gateway's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Set

from baton.rpc.metrics import HotHistogram, counter, gauge, histogram

# Tokens come every few to a few hundred milliseconds.
_BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
_WHOLE_REQUESTS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)

requests = counter(
    "gateway_requests", "Requests that ended: `ok` or the reason of their error.", ("outcome",)
)
in_flight = gauge("gateway_requests_in_flight", "Requests admitted and not ended.")
first_token = HotHistogram(
    "gateway_ttft_seconds", "From a request's arrival to its first token on the way to the client."
)
inter_token = HotHistogram(
    "gateway_itl_seconds", "Between two tokens of one sample.", buckets=_BETWEEN_TOKENS
)
slo_requests = counter(
    "gateway_slo_requests",
    "Requests with a target that could be judged: `ttft` or `itl`, met or not.",
    ("target", "met"),
)
whole_request = HotHistogram(
    "gateway_e2e_seconds", "From a request's arrival to its end.", buckets=_WHOLE_REQUESTS
)
prompt_tokens = counter("gateway_prompt_tokens", "Tokens of the prompts of requests that ended.")
output_tokens = counter("gateway_output_tokens", "Tokens of answers.")
cached_tokens = counter("gateway_cached_tokens", "Prompt tokens that nobody had to compute.")
cancellations = counter("gateway_cancellations", "Requests whose client left before the end.")
migrations = counter("gateway_migrations", "Samples moved to another decode worker.", ("reason",))
fallbacks = counter(
    "gateway_prefill_fallbacks", "Prompts that a decode worker computed itself.", ("worker_id",)
)
merged_chunks = counter("gateway_merged_chunks", "Chunks merged because the client was behind.")
link_up = gauge("gateway_decode_link_up", "Whether a decode worker's stream is up.", ("worker_id",))
shed = counter(
    "gateway_shed",
    "Requests refused for lack of room: `full`, `displaced`, or predicted late, `early` before "
    "tokenising, `late` behind it, `overdue` while waiting.",
    ("reason",),
)
waited = histogram("gateway_wait_seconds", "Held back in the gateway, of requests that were.")
ttft_ratio = HotHistogram(
    "gateway_ttft_ratio",
    "Time to a worker's first token over what was predicted on arrival.",
    buckets=(0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
)
waiting = gauge("gateway_waiting_requests", "Held back now.", ("model", "tenant", "priority"))
registry_staleness = gauge(
    "gateway_registry_staleness_seconds", "Age of what is known from Redis about workers."
)
stored_blocks = gauge("gateway_stored_blocks", "Blocks that kvstores are known to hold.")
decision_seconds = HotHistogram(
    "gateway_decision_seconds",
    "Choosing workers for a request: look-up of its blocks and weighing.",
    buckets=(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01),
)
prediction_error = HotHistogram(
    "gateway_ttft_prediction_error_seconds",
    "By how much a first token came sooner or later than routing had predicted.",
)
route_overhead = gauge(
    "gateway_ttft_overhead_seconds",
    "Running mean of what first tokens take beyond the prediction: the gateway's queues and roads.",
)

MAX_SHOWN_TENANTS = 100
"""Clients choose tenants' names: beyond so many with something waiting they are `other`."""


def show_waiting(
    model: str, lengths: Mapping[tuple[str, int], int], before: Set[tuple[str, str, str]]
) -> set[tuple[str, str, str]]:
    """How many of a model's requests are held back now, by tenant and band.

    Takes what was shown before off, and returns the labels of what is shown.
    """
    shown: dict[tuple[str, str, str], int] = {}
    for number, ((tenant, band), count) in enumerate(lengths.items()):
        labels = (model, tenant if number < MAX_SHOWN_TENANTS else "other", str(band))
        shown[labels] = shown.get(labels, 0) + count
    for gone in before - shown.keys():
        waiting.remove(*gone)
    for labels, count in shown.items():
        waiting.labels(*labels).set(count)
    return set(shown)
