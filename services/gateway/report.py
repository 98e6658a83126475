"""What is told about requests: one log line at the end, metrics, and a warning for each move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from prometheus_client import Counter

from baton.errors import BatonError, Cancelled
from baton.rpc import logs
from services.gateway import metrics
from services.gateway.requests import Request
from services.gateway.samples import Sample
from services.gateway.types import NO_HINTS, SloHints

log = logs.get_logger(__name__)


def moved(request: Request, sample: Sample, error: BatonError) -> None:
    """A sample leaves its decode worker for another."""
    metrics.migrations.labels(error.status.reason).inc()
    request.trace.event(f"sample {sample.index} leaves {sample.worker_id}: {error.status.reason}")
    log.warning(
        "sample moves to another decode worker",
        **_names(request),
        sample_index=sample.index,
        worker_id=sample.worker_id,
        num_tokens=len(sample.token_ids),
        num_migrations=sample.num_migrations,
        reason=error.status.reason,
        error=error.message,
    )


def ended(request: Request) -> str:
    """A request's one end; returns `ok` or the reason of its error."""
    error = request.failure
    if error is None and not request.is_told:
        error = Cancelled("the client left")
        metrics.cancellations.inc()
    outcome = "ok" if error is None else error.status.reason
    _requests(outcome).inc()
    total_s = request.left_at - request.arrived_at
    metrics.whole_request.observe(total_s)
    metrics.prompt_tokens.inc(len(request.command.token_ids))
    metrics.output_tokens.inc(request.num_output_tokens)
    metrics.merged_chunks.inc(request.mailbox.num_merged)
    if request.first_write_at:
        metrics.first_token.observe(request.first_write_at - request.arrived_at)
    if error is None:
        metrics.cached_tokens.inc(request.num_cached_tokens)
    targets = request.attainment.targets()
    for target, met in targets.items():
        metrics.slo_requests.labels(target, "yes" if met else "no").inc()
    request.trace.judged(targets)
    request.trace.end(request.num_output_tokens, error, request.left_at)
    _log_end(request, total_s, error, targets)
    return outcome


@cache
def _requests(outcome: str) -> Counter:
    """A label's look-up costs more than its count."""
    return metrics.requests.labels(outcome)


def _log_end(
    request: Request, total_s: float, error: BatonError | None, targets: Mapping[str, bool]
) -> None:
    samples = request.samples
    ttft_s = request.first_write_at - request.arrived_at if request.first_write_at else None
    reasons = [sample.finish_reason.name if sample.finish_reason else "NONE" for sample in samples]
    logs.info(
        __name__,
        "request ended",
        **_names(request),
        outcome="ok" if error is None else error.status.reason,
        error=error.message if error is not None else "",
        prompt_tokens=len(request.command.token_ids),
        output_tokens=request.num_output_tokens,
        cached_tokens=request.num_cached_tokens,
        ttft_ms=None if ttft_s is None else round(ttft_s * 1000, 1),
        total_ms=round(total_s * 1000, 1),
        decode_workers=_once([sample.worker_id for sample in samples]),
        prefill_workers=_once([sample.timings.prefill_worker_id for sample in samples]),
        prefill_modes=_once([sample.timings.prefill_mode.name for sample in samples]),
        finish_reasons=_once(reasons),
        num_migrations=sum([sample.num_migrations for sample in samples]),
        **_hints(request.command.slo, targets),
    )


def _hints(slo: SloHints, targets: Mapping[str, bool]) -> dict[str, object]:
    """What the client had hoped for, and how it went; empty when it said nothing."""
    if slo is NO_HINTS:
        return {}
    hints: dict[str, object] = {
        "target_ttft_ms": slo.target_ttft_ms,
        "target_itl_ms": slo.target_itl_ms,
        "expected_output_tokens": slo.expected_output_count,
    }
    met = {f"{target}_met": met for target, met in targets.items()}
    return {name: value for name, value in hints.items() if value} | met


def _names(request: Request) -> dict[str, str]:
    names = {
        "request_id": request.command.request_id,
        "model": request.command.model,
        "tenant": request.command.tenant,
        "trace_id": request.trace.trace_id,
    }
    return {key: value for key, value in names.items() if value}


def _once(names: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(filter(None, names)))
