"""What goes to a gateway: plain news of samples, made into one message per frame."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
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
    frame = pb.DecodeConnectResponse()
    deltas: dict[tuple[int, int], tuple[pb.SequenceDelta, MutableSequence[int]]] = {}
    for handle, sample_index, what in gathered:
        found = deltas.get((handle, sample_index))
        if found is None:
            delta = frame.deltas.add(handle=handle, sample_index=sample_index)
            # Kept besides: each look at a message's field makes an object.
            found = deltas[handle, sample_index] = delta, delta.token_ids
        delta, token_ids = found
        if isinstance(what, NewToken):
            token_ids.append(what.token_id)
            if what.logprobs is not None:
                delta.logprobs.append(convert.logprobs_to_pb(what.logprobs))
        else:
            delta.end.CopyFrom(what)
    return frame
