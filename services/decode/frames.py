"""What goes to a gateway: plain news of samples, made into one message per frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from baton import convert
from baton.engine.types import NewToken
from baton.v1 import decode_pb2 as pb


class SampleNews(NamedTuple):
    """A sample's next token, or its end."""

    handle: int
    sample_index: int
    what: NewToken | pb.SequenceEnd


def make_frame(gathered: Iterable[SampleNews]) -> pb.DecodeConnectResponse:
    """One frame with all news; one delta per sample, however many steps have gathered.

    Runs for every token: news stay tuples until here, and messages are made where they stay.
    """
    tokens: dict[tuple[int, int], list[NewToken]] = {}
    ends: dict[tuple[int, int], pb.SequenceEnd] = {}
    for handle, sample_index, what in gathered:
        drawn = tokens.setdefault((handle, sample_index), [])
        if isinstance(what, NewToken):
            drawn.append(what)
        else:
            ends[handle, sample_index] = what
    frame = pb.DecodeConnectResponse()
    for sample, drawn in tokens.items():
        frame.deltas.add(
            handle=sample[0],
            sample_index=sample[1],
            token_ids=[token.token_id for token in drawn],
            logprobs=[convert.logprobs_to_pb(t.logprobs) for t in drawn if t.logprobs is not None],
            end=ends.get(sample),
        )
    return frame
