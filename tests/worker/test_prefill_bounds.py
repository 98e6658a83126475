"""How many sessions a prefill worker takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from baton import convert
from baton.errors import Overloaded
from baton.v1 import prefill_pb2 as pb
from services.prefill.connection import Connection


async def test_a_session_beyond_the_limit_ends_at_once_with_a_reason() -> None:
    nothing: Any = SimpleNamespace(is_on=False)
    hello = pb.PrefillHello(connection_id="c", worker_id="decode-0", epoch="1")
    connection = Connection(hello, nothing, nothing, nothing, room=lambda: 0)

    connection.take(pb.PrefillConnectRequest(opens=[pb.OpenSession(session_id=7)]))
    connection.end_frames()
    [frame] = [frame async for frame in connection.frames()]

    [update] = frame.updates
    assert update.session_id == 7
    assert isinstance(convert.error_from_pb(update.end.error), Overloaded)
    assert connection.num_sessions == 0
