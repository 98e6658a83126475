"""`baton.v1.ExplainService`: what this gateway weighed for recent requests."""

from __future__ import annotations

import grpc

from baton import convert
from baton.errors import UnknownRequest
from baton.policy.decision import Option
from baton.rpc.handlers import Context
from baton.v1 import explain_pb2 as pb
from baton.v1 import explain_pb2_grpc as stubs
from services.gateway.decisions import MAX_REQUESTS, DecisionLog, Outcome, Placed

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["ExplainService"].full_name
MAX_OPTIONS = 32
"""Most options told of one decision, the chosen one always among them."""


class ExplainService(stubs.ExplainServiceServicer):
    """Answers from a decision log."""

    def __init__(self, decisions: DecisionLog) -> None:
        self._decisions = decisions

    def register(self, server: grpc.aio.Server) -> None:
        """Puts the service into a server."""
        stubs.add_ExplainServiceServicer_to_server(self, server)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """A request's decisions and outcome."""
        story = self._decisions.find(request.request_id)
        if story is None:
            raise UnknownRequest(
                f"this gateway knows no request {request.request_id!r}; it keeps the last "
                f"{MAX_REQUESTS} that it has routed itself",
                field="request_id",
            )
        return pb.ExplainResponse(
            request_id=story.request_id,
            decisions=[_decision(placed) for placed in story.placed],
            outcome=_outcome(story.outcome) if story.outcome is not None else None,
        )


def _decision(placed: Placed) -> pb.RouteDecision:
    decision = placed.decision
    options, chosen = list(decision.weigh()), decision.chosen
    assert chosen is not None
    at = options.index(chosen)
    if at >= MAX_OPTIONS:
        at, options[MAX_OPTIONS - 1] = MAX_OPTIONS - 1, chosen
    return pb.RouteDecision(
        unix_seconds=placed.unix_s,
        token_count=placed.num_tokens,
        reason=decision.reason,
        options=[_option(option) for option in options[:MAX_OPTIONS]],
        chosen_index=at,
        rejections=[str(rejected) for rejected in decision.rejected],
    )


def _option(option: Option) -> pb.RouteOption:
    return pb.RouteOption(
        decode_worker_id=option.decode_worker_id,
        prefill_worker_id=option.prefill_worker_id,
        cost_ms=option.cost_ms,
        ttft_ms=option.ttft_ms,
        itl_ms=option.itl_ms,
        terms=[pb.CostTerm(name=name, value_ms=value) for name, value in option.terms],
        cached_token_count=option.num_cached_tokens,
        fetched_token_count=option.num_fetched_tokens,
        computed_token_count=option.num_computed_tokens,
    )


def _outcome(outcome: Outcome) -> pb.RouteOutcome:
    return pb.RouteOutcome(
        result=outcome.result,
        ttft_ms=outcome.first_token_ms,
        itl_ms=outcome.itl_ms,
        timings=convert.timings_to_pb(outcome.timings),
        output_token_count=outcome.num_output_tokens,
    )
