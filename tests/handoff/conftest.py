"""Real prefill and decode workers on small random models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from checkpoints import KINDS, make_checkpoint
from service_process import ServiceProcess

Start = Callable[..., ServiceProcess]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A folder of random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


def start_worker(stack: ExitStack, model: Path, role: str, *flags: str) -> ServiceProcess:
    """A worker on one thread with 256 blocks; later flags win."""
    base = ("--model", str(model), "--device", "cpu", "--threads", "1", "--num-blocks", "256")
    process = ServiceProcess(
        "-m", f"services.{role}", *base, *flags, environment={"OMP_NUM_THREADS": "1"}
    )
    return stack.enter_context(process)


@pytest.fixture(scope="session", params=KINDS)
def any_model(request, tmp_path_factory) -> Path:
    """A folder of random weights of each architecture that is supported."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture
def start_on() -> Iterator[Start]:
    """Starts workers that end with the test: `start_on(folder, "decode", "--threads", "1")`."""
    with ExitStack() as stack:
        yield partial(start_worker, stack)


@pytest.fixture
def start(start_on, model) -> Start:
    """As `start_on`, on the module's own model."""
    return partial(start_on, model)


@pytest.fixture
def kvstore() -> Iterator[ServiceProcess]:
    """A kvstore of 64 MB."""
    flags = ("--listen", "127.0.0.1:0", "--capacity-bytes", "64MiB")
    with ServiceProcess("-m", "services.kvstore", *flags) as process:
        yield process


@pytest.fixture(scope="module")
def pair(model) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """(decode, prefill) for tests that leave them as they were."""
    with ExitStack() as stack:
        decode = start_worker(stack, model, "decode", "--verify-transfers")
        # Small steps: a prompt takes many, so that there is a middle of it.
        prefill = start_worker(stack, model, "prefill", "--max-batch-tokens", "16")
        yield decode, prefill


@pytest.fixture(scope="module")
def slow_prefill(model) -> Iterator[ServiceProcess]:
    """A prefill worker that computes a token a step: nobody can miss that it is busy."""
    with ExitStack() as stack:
        yield start_worker(stack, model, "prefill", "--max-batch-tokens", "1")
