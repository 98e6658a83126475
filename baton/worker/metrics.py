"""What a worker's engine does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from prometheus_client import Gauge

from baton.engine.types import BlockEventKind, StepLoad, StepOutput
from baton.policy.stepmodel import StepModel
from baton.rpc.metrics import HotHistogram, counter, gauge

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_steps = HotHistogram("engine_step_seconds", "Time of an engine step.", buckets=STEP_SECONDS)
_tokens = counter("engine_tokens_total", "Tokens computed, by what they were for.", ("kind",))
_sequences = gauge("engine_sequences", "Sequences in the engine.", ("state",))
_waiting_tokens = gauge("engine_waiting_tokens", "Known tokens that are still to be computed.")
_blocks = gauge("engine_blocks", "Blocks of the arena.", ("state",))
_model_errors = HotHistogram(
    "engine_step_model_ratio",
    "An engine step's time over what the model learnt from earlier ones had predicted.",
    buckets=(0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 5.0),
)
_coefficients = gauge(
    "engine_step_model_microseconds", "Coefficients of the step model.", ("coefficient",)
)
_evictions = counter("engine_evicted_blocks_total", "Blocks that left the prefix cache.")
_preemptions = gauge("engine_preemptions", "Sequences that lost their blocks, since the start.")
_late_draws = gauge(
    "engine_late_draws",
    "Steps launched ahead whose draw had to wait for tokens on the host, since the start.",
)
_wasted_tokens = gauge(
    "engine_wasted_tokens", "Tokens drawn ahead for sequences that had ended, since the start."
)


# A label's lookup costs more than its count, and this runs at every step.
_prompt_tokens, _decode_tokens = _tokens.labels("prompt"), _tokens.labels("decode")


class _Last:
    """The newest step's load, for what is only looked at when somebody asks."""

    load = StepLoad()


def _show(shown: Gauge, read: Callable[[StepLoad], int]) -> None:
    shown.set_function(lambda: read(_Last.load))


_show(_sequences.labels("running"), lambda load: load.num_running)
_show(_sequences.labels("waiting"), lambda load: load.num_waiting)
_show(_sequences.labels("receiving"), lambda load: load.num_receiving)
_show(_waiting_tokens, lambda load: load.num_waiting_tokens)
_show(_blocks.labels("used"), lambda load: load.num_used_blocks)
_show(_blocks.labels("free"), lambda load: load.num_blocks - load.num_used_blocks)
_show(_preemptions, lambda load: load.num_preemptions)
_show(_late_draws, lambda load: load.num_late_draws)
_show(_wasted_tokens, lambda load: load.num_wasted_tokens)


def observe(output: StepOutput) -> None:
    """Takes one step's news."""
    load = _Last.load = output.load
    if load.num_prompt_tokens or load.num_decode_tokens:
        _steps.observe(load.step_us / 1e6)
        _prompt_tokens.inc(load.num_prompt_tokens)
        _decode_tokens.inc(load.num_decode_tokens)
    for event in output.block_events:
        if event.kind is BlockEventKind.REMOVED:
            _evictions.inc(len(event.keys))


def observe_ratio(ratio: float) -> None:
    """A step's time over its prediction."""
    _model_errors.observe(ratio)


def show_model(model: StepModel) -> None:
    """Shows what has been learnt of step times."""
    for name, value in asdict(model).items():
        _coefficients.labels(name).set(value)
