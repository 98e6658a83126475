"""`baton explain`: where a recent request went, what else was weighed, and what then happened."""

from __future__ import annotations

import time

import grpc
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from baton.cli.ask import require_gateway
from baton.cli.errors import CommandError
from baton.v1 import explain_pb2 as pb
from baton.v1 import explain_pb2_grpc as stubs
from baton.v1 import types_pb2

ANSWER_SECONDS = 5.0


def run_explain(address: str, request_id: str, *, most: int) -> int:
    """Prints a request's story. Raises CommandError where the gateway doesn't know it."""
    require_gateway(address)
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            story = stubs.ExplainServiceStub(channel).Explain(
                pb.ExplainRequest(request_id=request_id), timeout=ANSWER_SECONDS
            )
        except grpc.RpcError as failure:
            reason = failure.details() if isinstance(failure, grpc.Call) else str(failure)
            raise CommandError(
                f"{reason}. Of several gateways that share a port, ask each on its own address."
            ) from failure
    Console(highlight=False).print(tell(story, most))
    return 0


def tell(story: pb.ExplainResponse, most: int) -> RenderableType:
    """The story for people: a table for each decision, then the outcome."""
    parts: list[RenderableType] = [Text(f"request {story.request_id}")]
    for decision in story.decisions:
        parts.append(_head(decision))
        parts.append(_table(decision, most))
        if decision.rejections:
            parts.append(Text(f"not considered: {'; '.join(decision.rejections)}"))
    predicted = None
    if story.decisions:
        last = story.decisions[-1]
        predicted = last.options[last.chosen_index]
    parts.append(_outcome(story, predicted))
    return Group(*parts)


def _head(decision: pb.RouteDecision) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(decision.unix_seconds))
    chosen = decision.options[decision.chosen_index]
    where = f"computed by {chosen.prefill_worker_id or chosen.decode_worker_id}"
    return Text(
        f"\n{at}  {decision.token_count} tokens to {chosen.decode_worker_id}: "
        f"{chosen.cached_token_count} cached there, {chosen.fetched_token_count} from kvstore, "
        f"{chosen.computed_token_count} {where}\nwhy: {decision.reason}"
    )


def _table(decision: pb.RouteDecision, most: int) -> Table:
    options = list(enumerate(decision.options))
    shown = [pair for pair in options if pair[0] < most or pair[0] == decision.chosen_index]
    names = [
        term.name
        for at, term in enumerate(decision.options[0].terms)
        if any(abs(option.terms[at].value_ms) >= 0.05 for _, option in shown)
    ]
    table = Table(title="milliseconds", title_justify="left", title_style="")
    for name in ("", "decode", "prompt by", "TTFT", "ITL", *names, "cost"):
        table.add_column(name, justify="left" if name in ("", "decode", "prompt by") else "right")
    for index, option in shown:
        terms = {term.name: term.value_ms for term in option.terms}
        table.add_row(
            "*" if index == decision.chosen_index else "",
            option.decode_worker_id,
            option.prefill_worker_id or "itself",
            f"{option.ttft_ms:.1f}",
            f"{option.itl_ms:.1f}",
            *(f"{terms.get(name, 0.0):.1f}" for name in names),
            f"{option.cost_ms:.1f}",
        )
    if len(shown) < len(options):
        table.caption = f"{len(options) - len(shown)} more that cost more: --all"
    return table


def _outcome(story: pb.ExplainResponse, predicted: pb.RouteOption | None) -> Text:
    if not story.HasField("outcome"):
        return Text("\nit has not ended yet")
    outcome, timings = story.outcome, story.outcome.timings
    lines = [f"\nended: {outcome.result}, {outcome.output_token_count} tokens"]
    if predicted is not None and outcome.HasField("ttft_ms"):
        lines.append(f"TTFT {outcome.ttft_ms:.1f} ms, predicted {predicted.ttft_ms:.1f}")
    if predicted is not None and outcome.HasField("itl_ms"):
        lines.append(f"ITL {outcome.itl_ms:.1f} ms, predicted {predicted.itl_ms:.1f}")
    mode = types_pb2.PrefillMode.Name(timings.prefill_mode).removeprefix("PREFILL_MODE_").lower()
    lines.append(
        f"prompt: {mode}, {timings.cached_token_count} tokens cached, "
        f"{timings.fetched_token_count} fetched; waited {timings.queue_us / 1e3:.1f} ms, "
        f"prefill {timings.prefill_us / 1e3:.1f} ms, of it hand-off {timings.handoff_us / 1e3:.1f}"
    )
    return Text("\n".join(lines))
