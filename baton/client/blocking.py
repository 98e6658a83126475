"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, Unpack

import grpc

from baton.client import messages
from baton.client.asynchronous import UNARY_SECONDS, call_metadata, call_timeout_s
from baton.client.sessions import Session
from baton.client.types import Chunk, Final, Model, Options, Prompt, Sampling
from baton.errors import BatonError, WorkerLost
from baton.rpc.channels import CHANNEL_OPTIONS, TlsFiles
from baton.rpc.status import from_rpc_error
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Events:
    """Chunks as they come, then one `Final`. Closing it, or dropping it, cancels the request."""

    def __init__(self, call: Any) -> None:
        # grpc's class for this is private: an iterator of responses with `cancel`.
        self._call = call
        self._is_over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk | Final:
        if self._is_over:
            raise StopIteration
        try:
            event = messages.event(next(self._call))
        except StopIteration:
            self._is_over = True
            raise WorkerLost("The answer broke off without an end.") from None
        except grpc.RpcError as failure:
            self._is_over = True
            raise _from_table(failure) from failure
        if isinstance(event, Final):
            self._is_over = True
            # The status behind the final; without reading it the call would count as cancelled.
            self._call.code()
        return event

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        self._is_over = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._call.cancel()


class Client:
    """Speaks to one gateway; connects when first used. Threads may share it."""

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls.for_channel(), options=CHANNEL_OPTIONS)
        self._stub: Any = stubs.GatewayServiceStub(self._channel)

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Events:
        """Streams the samples for a prompt. What is wrong is raised where the events are read."""
        request = messages.generate_request(prompt, sampling or Sampling(), options)
        return Events(
            self._stub.Generate(
                request, timeout=call_timeout_s(options), metadata=call_metadata(options)
            )
        )

    def session(self) -> Session:
        """Many requests on one stream; use it with `with`."""
        return Session(self._stub)

    def tokenize(self, prompt: Prompt, model: str = "") -> tuple[int, ...]:
        """Token ids of a text, special tokens included, or of a conversation."""
        request = messages.tokenize_request(prompt, model)
        return tuple(_answer(self._stub.Tokenize, request).token_ids)

    def detokenize(
        self, token_ids: Sequence[int], model: str = "", keep_special_tokens: bool = False
    ) -> str:
        """Text of token ids."""
        request = messages.detokenize_request(token_ids, model, keep_special_tokens)
        return str(_answer(self._stub.Detokenize, request).text)

    def list_models(self) -> tuple[Model, ...]:
        """Models that are served now."""
        response = _answer(self._stub.ListModels, pb.ListModelsRequest())
        return tuple(map(messages.model, response.models))

    def close(self) -> None:
        """Closes the connection; requests that still run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(method: Callable[..., ResponseT], request: object) -> ResponseT:
    try:
        return method(request, timeout=UNARY_SECONDS)
    except grpc.RpcError as failure:
        raise _from_table(failure) from failure


def _from_table(failure: Any) -> BatonError:
    # The blocking API's failures have the methods of asyncio's, and no class in common.
    return from_rpc_error(failure)
