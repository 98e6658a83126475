"""The clients' processes: they make requests first, and only then start their clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from bench.child import answer_all
from bench.frontdoor import grpc_client, http_client, session_client
from bench.frontdoor.http_client import Answers
from bench.frontdoor.messages import Door, Load, Seen


def serve_http(pipe: Connection) -> None:
    """Answers `Load` with `Seen`."""

    def bring(load: Load) -> Seen:
        requests = http_client.make_requests(load)
        clients = http_client.HttpClients(load)
        answers, seen = _clocked(lambda: clients.run(requests))
        http_client.check_answers(answers.raw, load.shape)
        return seen

    answer_all(pipe, bring)


def serve_grpc(pipe: Connection) -> None:
    """Answers `Load` with `Seen`."""
    import uvloop

    loop = uvloop.new_event_loop()
    calls, sessions = grpc_client.GrpcClients(), session_client.SessionClients()

    def bring(load: Load) -> Seen:
        requests = grpc_client.make_requests(load)
        clients = sessions if load.door is Door.SESSION else calls
        return _clocked(lambda: loop.run_until_complete(clients.run(load, requests)))[1]

    answer_all(pipe, bring)


def _clocked(work: Callable[[], Answers]) -> tuple[Answers, Seen]:
    gc.collect()
    gc.disable()
    cpu, wall = time.process_time(), time.monotonic()
    try:
        answers = work()
    finally:
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        gc.enable()
    seen = Seen(tuple(answers.ttfts_s), answers.num_tokens, answers.num_events, wall, cpu)
    return answers, seen
